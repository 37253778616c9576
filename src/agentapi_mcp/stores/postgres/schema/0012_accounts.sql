-- needs: 0.1.0
-- Connected accounts: their sealed tokens are in oauth_data of one row of mcp_sessions per user, which the program wrote
-- and never read before. A link to a page is for a key or for an account.

-- In a database that had this table before, the program has a right to single columns only.
GRANT SELECT (oauth_data), UPDATE (oauth_data) ON public.mcp_sessions TO agentapi_system;

-- purpose  what the page that a link opens is for: a key (as all links of before), or an account
ALTER TABLE agentapi.key_requests ADD COLUMN purpose text NOT NULL DEFAULT 'key'
    CONSTRAINT key_requests_purpose CHECK (purpose IN ('key', 'account'));

-- Users who sign in to the database read their own rows of mcp_sessions with all columns, but not the one with their
-- accounts; nor can they write one, for themselves or in another user's place, since ids are unique.
CREATE POLICY agentapi_accounts ON public.mcp_sessions AS RESTRICTIVE TO anon, authenticated
    USING (session_id NOT LIKE 'oauth/%') WITH CHECK (session_id NOT LIKE 'oauth/%');
