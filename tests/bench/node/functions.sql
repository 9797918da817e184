-- PostGraphile's custom mutations: the rows that the gateway writes, in one call each.

CREATE SCHEMA bench;

CREATE FUNCTION bench.create_snapshot(machine_id bigint, name text) RETURNS public.operation
LANGUAGE sql VOLATILE AS $$
    WITH machine AS (
        SELECT * FROM public.machine WHERE id = create_snapshot.machine_id
    ), made AS (
        INSERT INTO public.snapshot (tenant, machine_id, name, name_folded, state, memory, is_current, created_at,
            created_by, created_by_folded)
        SELECT tenant, id, create_snapshot.name, lower(create_snapshot.name), 'CREATING', FALSE, FALSE, now(),
            'local', 'local'
        FROM machine RETURNING *
    )
    INSERT INTO public.operation (tenant, kind, state, machine_id, machine_kind, machine_name, snapshot_id,
        snapshot_name, requested_by, requested_by_folded, created_at, token, wish, issued, attempt, fence)
    SELECT m.tenant, 'CREATE_SNAPSHOT', 'QUEUED', m.id, m.kind, m.name, s.id, s.name, 'local', 'local', now(),
        replace(gen_random_uuid()::text, '-', ''), json_build_object('name', s.name)::text, FALSE, 0, 0
    FROM machine m, made s RETURNING *
$$;

CREATE FUNCTION bench.delete_snapshots(ids bigint[]) RETURNS SETOF public.operation
LANGUAGE sql VOLATILE AS $$
    WITH marked AS (
        UPDATE public.snapshot SET state = 'DELETING' WHERE id = ANY (delete_snapshots.ids) AND state IN ('READY', 'ERROR')
        RETURNING *
    )
    INSERT INTO public.operation (tenant, kind, state, machine_id, machine_kind, machine_name, snapshot_id,
        snapshot_name, requested_by, requested_by_folded, created_at, token, wish, issued, attempt, fence)
    SELECT m.tenant, 'DELETE_SNAPSHOT', 'QUEUED', m.id, m.kind, m.name, s.id, s.name, 'local', 'local', now(),
        replace(gen_random_uuid()::text, '-', ''), '{"previous": "READY"}', FALSE, 0, 0
    FROM marked s JOIN public.machine m ON m.id = s.machine_id RETURNING *
$$;
