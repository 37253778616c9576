"""What a database holds and who may do what in it, as texts that can be compared."""

import asyncpg

# Each gives a name and what is to be said of it; systems' own schemas are left out.
_QUERIES = (
    """SELECT 'schema ' || nspname, pg_get_userbyid(nspowner) FROM pg_namespace
        WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'""",
    """SELECT 'grant on schema ' || n.nspname || ' to ' || CASE g.grantee WHEN 0 THEN 'public' ELSE
              pg_get_userbyid(g.grantee) END, string_agg(g.privilege_type, ' ' ORDER BY g.privilege_type)
         FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' GROUP BY n.nspname, g.grantee""",
    """SELECT 'relation ' || c.oid::regclass, concat_ws(' ', c.relkind, pg_get_userbyid(c.relowner), c.reloptions::text)
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'""",
    """SELECT 'row security of ' || c.oid::regclass, concat_ws(' ', c.relrowsecurity, c.relforcerowsecurity)
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'""",
    """SELECT 'grant on ' || c.oid::regclass || ' to ' || CASE g.grantee WHEN 0 THEN 'public' ELSE
              pg_get_userbyid(g.grantee) END, string_agg(g.privilege_type, ' ' ORDER BY g.privilege_type)
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
              aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END,
                                                       c.relowner))) g
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'S')
        GROUP BY c.oid, g.grantee""",
    """SELECT 'grant on ' || c.oid::regclass || '.' || a.attname || ' to ' || pg_get_userbyid(g.grantee),
              string_agg(g.privilege_type, ' ' ORDER BY g.privilege_type)
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
              aclexplode(a.attacl) g
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' GROUP BY c.oid, a.attname, g.grantee""",
    """SELECT 'column ' || c.oid::regclass || '.' || a.attname,
              concat_ws(' ', a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                        pg_get_expr(d.adbin, d.adrelid))
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
          AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'""",
    """SELECT 'constraint ' || k.conrelid::regclass || ' ' || k.conname, pg_get_constraintdef(k.oid)
         FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
        WHERE k.conrelid <> 0 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'""",
    """SELECT 'index ' || schemaname || '.' || indexname, indexdef FROM pg_indexes
        WHERE schemaname !~ '^pg_' AND schemaname <> 'information_schema'""",
    """SELECT 'trigger ' || tgrelid::regclass || ' ' || tgname, concat_ws(' ', pg_get_triggerdef(oid), tgenabled)
         FROM pg_trigger WHERE NOT tgisinternal""",
    """SELECT 'view ' || schemaname || '.' || viewname, definition FROM pg_views
        WHERE schemaname !~ '^pg_' AND schemaname <> 'information_schema'""",
    """SELECT 'policy ' || tablename || ' ' || policyname, concat_ws(' | ', permissive, roles, cmd, qual, with_check)
         FROM pg_policies""",
    """SELECT 'function ' || p.oid::regprocedure, concat_ws(' ', pg_get_userbyid(p.proowner), p.proacl::text,
              pg_get_functiondef(p.oid))
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'""",
    """SELECT 'type ' || t.oid::regtype, (SELECT string_agg(enumlabel, ' ' ORDER BY enumsortorder) FROM pg_enum e
               WHERE e.enumtypid = t.oid)
         FROM pg_type t WHERE t.typtype = 'e'""",
    """SELECT 'default rights of ' || pg_get_userbyid(defaclrole) || ' ' || defaclobjtype::text, defaclacl::text
         FROM pg_default_acl""",
    """SELECT 'role ' || rolname, concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,
              rolbypassrls, rolconfig::text)
         FROM pg_roles WHERE rolname !~ '^pg_'""",
    """SELECT 'member ' || pg_get_userbyid(member) || ' of ' || pg_get_userbyid(roleid), bool_or(admin_option)::text
         FROM pg_auth_members GROUP BY member, roleid""",
)


async def contents(url: str) -> str:
    """Write down every row of every table, bytes in hexadecimal; the reader is an administrator."""
    connection = await asyncpg.connect(url)
    try:
        names = await connection.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
        )
        rows = [await connection.fetch(f"SELECT t::text FROM {row['name']} t") for row in names]  # noqa: S608  # from the catalogue
        return "\n".join(str(row[0]) for table in rows for row in table)
    finally:
        await connection.close()


async def dump(url: str) -> dict[str, str]:
    """Describe all objects, rights and roles, and the rows of every table; the reader is an administrator."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET search_path = pg_catalog")
        said: dict[str, str] = {}
        for query in _QUERIES:
            said |= {row[0]: str(row[1]) for row in await connection.fetch(query)}
        for name in sorted(key.removeprefix("row security of ") for key in said if key.startswith("row security of ")):
            rows = f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {name} t"  # noqa: S608  # from the catalogue
            said[f"rows of {name}"] = str(await connection.fetchval(rows))
        return said
    finally:
        await connection.close()
