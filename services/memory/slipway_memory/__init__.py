"""Knowledge, files, sessions."""
