-- needs: 0.1.0
-- What a member may do beyond their role, or not in spite of it, is read when they sign in.
DO $$
DECLARE
    kind text := (SELECT format_type(atttypid, atttypmod) FROM pg_attribute
                   WHERE attrelid = 'public.organization_members'::regclass AND attname = 'permissions'
                     AND NOT attisdropped);
BEGIN
    IF kind IS DISTINCT FROM 'jsonb' THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'The database does not fit, seen as the login %s: public.organization_members.permissions must be jsonb, '
            'it is %s', current_user, coalesce(kind, 'missing'));
    END IF;
END
$$;
GRANT SELECT (permissions) ON public.organization_members TO agentapi_system;
