-- needs: 0.1.0
-- In a database that had mcp_sessions before, the program could begin no transport session there, and sweep none out.
GRANT SELECT (mcp_state, expires_at), DELETE ON public.mcp_sessions TO agentapi_system;
