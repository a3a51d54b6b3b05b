"""What bench/orchestrator.py needs: our processes, DBOS and LangGraph in an environment of their own, and pgbench."""
