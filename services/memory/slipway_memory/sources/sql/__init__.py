"""From the text of a query to a statement that can only read what is declared and permitted."""
