"""Knowledge, files, sessions."""

import os

# Documents are parsed in processes of their own. gRPC would stop its threads around each fork, for children that never
# use it; it reads this when it is loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
