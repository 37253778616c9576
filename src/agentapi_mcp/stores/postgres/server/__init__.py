"""The embedded Postgres server: started on demand, shared by the processes of a home, stopped when idle."""
