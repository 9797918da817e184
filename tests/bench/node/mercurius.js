// Mercurius as its documentation says: Fastify, a schema, resolvers, loaders, `jit`, and pg's pool.
// The gateway's names for what the workloads use; reads without rights or limits, writes that record the same rows.
import Fastify from 'fastify'
import mercurius from 'mercurius'
import { randomUUID } from 'node:crypto'
import pg from 'pg'

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 })

const schema = `
  scalar BigInt
  scalar DateTime
  enum SnapshotState { CREATING READY REVERTING DELETING ERROR }
  enum OperationState { QUEUED RUNNING SUCCEEDED FAILED CANCELED }
  enum SnapshotSortField { CREATED_AT NAME }
  enum SortDirection { ASC DESC }
  input SnapshotSort { field: SnapshotSortField! direction: SortDirection = ASC ignoreCase: Boolean = false }
  input StringFilter { startsWith: String! }
  input SnapshotFilter { name: StringFilter }
  type PageInfo { hasNextPage: Boolean! hasPreviousPage: Boolean! startCursor: String endCursor: String }
  type Snapshot {
    id: ID! name: String! description: String state: SnapshotState! memory: Boolean! isCurrent: Boolean!
    sizeBytes: BigInt createdAt: DateTime!
  }
  type SnapshotConnection { nodes: [Snapshot!]! pageInfo: PageInfo! totalCount: Int! }
  type Vm {
    id: ID! name: String! description: String
    snapshots(filter: SnapshotFilter, sort: [SnapshotSort!], first: Int = 50, after: String): SnapshotConnection!
  }
  type VmConnection { nodes: [Vm!]! pageInfo: PageInfo! }
  type Operation { id: ID! state: OperationState! }
  type UserError { code: String! message: String! }
  input CreateSnapshotInput { machineId: ID! name: String! description: String memory: Boolean = false }
  type CreateSnapshotPayload { operation: Operation snapshot: Snapshot errors: [UserError!]! }
  input DeleteSnapshotsInput { ids: [ID!]! }
  type DeleteSnapshotResult { snapshotId: ID! operation: Operation errors: [UserError!]! }
  type DeleteSnapshotsPayload { results: [DeleteSnapshotResult!]! acceptedCount: Int! refusedCount: Int! }
  type Query { vm(id: ID!): Vm vms(first: Int = 50, after: String): VmConnection! }
  type Mutation {
    createSnapshot(input: CreateSnapshotInput!): CreateSnapshotPayload!
    deleteSnapshots(input: DeleteSnapshotsInput!): DeleteSnapshotsPayload!
  }
`

const number = (id) => id.slice(id.lastIndexOf('-') + 1)
const encode = (order, row) => Buffer.from(JSON.stringify([row.key, row.id])).toString('base64url')
const decode = (cursor) => JSON.parse(Buffer.from(cursor, 'base64url').toString())
// The sort value as text, which keeps the microseconds that a Date would lose.
const ORDERS = {
  CREATED_AT: { column: 'created_at', key: 's.created_at::text', type: 'timestamptz' },
  NAME: { column: 'name', key: 's.name', type: 'text' },
  FOLDED: { column: 'name_folded', key: 's.name_folded', type: 'text' }
}

function limited (first) {
  if (first < 0 || first > 1000) throw new Error('first must be between 0 and 1000')
  return first
}

function connection (rows, first, after, order, toNode) {
  const items = rows.length > first ? rows.slice(0, first) : rows
  return {
    nodes: items.map(toNode),
    pageInfo: {
      hasNextPage: rows.length > first,
      hasPreviousPage: after != null,
      startCursor: items.length ? encode(order, items[0]) : null,
      endCursor: items.length ? encode(order, items[items.length - 1]) : null
    }
  }
}

const toVm = (row) => ({ id: `vm-${row.id}`, number: row.id, name: row.name, description: row.description })

const toSnapshot = (row) => ({
  id: `snapshot-${row.id}`,
  name: row.name,
  description: row.description,
  state: row.state,
  memory: row.memory,
  isCurrent: row.is_current,
  sizeBytes: row.size_bytes,
  createdAt: row.created_at.toISOString()
})

const COLUMNS = 's.id, s.machine_id, s.name, s.description, s.state, s.memory, s.is_current, s.size_bytes, s.created_at'

// One statement for each set of arguments: usually one.
async function snapshots (queries) {
  const groups = new Map()
  queries.forEach(({ obj, params }, index) => {
    const key = JSON.stringify(params)
    if (!groups.has(key)) groups.set(key, { params, members: [] })
    groups.get(key).members.push({ index, machine: obj.number })
  })
  const answers = new Array(queries.length)
  for (const { params, members } of groups.values()) {
    const { filter, sort, first, after } = params
    const by = sort?.[0] ?? { field: 'CREATED_AT', direction: 'DESC' }
    const order = ORDERS[by.ignoreCase ? 'FOLDED' : by.field]
    const descending = by.direction === 'DESC'
    const values = [members.map((member) => member.machine)]
    const conditions = ['s.machine_id = m.id']
    if (filter?.name) {
      values.push(filter.name.startsWith.replace(/[\\%_]/g, '\\$&') + '%')
      conditions.push(`s.name LIKE $${values.length}`)
    }
    if (after != null) {
      values.push(...decode(after))
      conditions.push(
        `(s.${order.column}, s.id) ${descending ? '<' : '>'}` +
        ` ($${values.length - 1}::${order.type}, $${values.length}::bigint)`
      )
    }
    values.push(limited(first) + 1)
    const direction = descending ? 'DESC' : 'ASC'
    const { rows } = await pool.query({
      name: `snapshots ${by.field} ${by.ignoreCase} ${direction} ${conditions.length} ${after != null}`,
      text: `SELECT ${COLUMNS}, ${order.key} AS key FROM unnest($1::bigint[]) AS m (id)
        CROSS JOIN LATERAL (SELECT s.* FROM snapshot s WHERE ${conditions.join(' AND ')}
          ORDER BY s.${order.column} ${direction}, s.id ${direction} LIMIT $${values.length}) s`,
      values
    })
    const byMachine = new Map(members.map((member) => [member.machine, []]))
    for (const row of rows) byMachine.get(row.machine_id).push(row)
    for (const { index, machine } of members) {
      answers[index] = { ...connection(byMachine.get(machine), first, after, order, toSnapshot), machine }
    }
  }
  return answers
}

async function totalCounts (queries) {
  const machines = queries.map(({ obj }) => obj.machine)
  const { rows } = await pool.query({
    name: 'counts',
    text: 'SELECT machine_id, count(*)::int AS n FROM snapshot WHERE machine_id = ANY ($1::bigint[]) GROUP BY machine_id',
    values: [machines]
  })
  const counts = new Map(rows.map((row) => [row.machine_id, row.n]))
  return machines.map((machine) => counts.get(machine) ?? 0)
}

async function transaction (work) {
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    const result = await work(client)
    await client.query('COMMIT')
    return result
  } catch (error) {
    await client.query('ROLLBACK')
    throw error
  } finally {
    client.release()
  }
}

const OPERATION = `INSERT INTO operation (tenant, kind, state, machine_id, machine_kind, machine_name, snapshot_id,
  snapshot_name, requested_by, requested_by_folded, created_at, token, wish, issued, attempt, fence)`

async function createSnapshot (_, { input }) {
  return transaction(async (client) => {
    const made = await client.query({
      name: 'create snapshot',
      text: `INSERT INTO snapshot AS s (tenant, machine_id, name, name_folded, description, description_folded, state, memory,
          is_current, created_at, created_by, created_by_folded)
        SELECT tenant, id, $2, $3, $4, $5, 'CREATING', $6, FALSE, now(), 'local', 'local' FROM machine WHERE id = $1
        RETURNING ${COLUMNS}`,
      values: [number(input.machineId), input.name, input.name.toLowerCase(), input.description,
        input.description?.toLowerCase(), input.memory]
    })
    const snapshot = made.rows[0]
    if (snapshot === undefined) {
      return { errors: [{ code: 'NOT_FOUND', message: `Machine '${input.machineId}' was not found.` }] }
    }
    const { rows } = await client.query({
      name: 'create operation',
      text: `${OPERATION} SELECT tenant, 'CREATE_SNAPSHOT', 'QUEUED', id, kind, name, $2, $3, 'local', 'local', now(), $4,
        $5, FALSE, 0, 0 FROM machine WHERE id = $1 RETURNING id, state`,
      values: [snapshot.machine_id, snapshot.id, snapshot.name, randomUUID(), JSON.stringify({ name: snapshot.name })]
    })
    return { operation: toOperation(rows[0]), snapshot: toSnapshot(snapshot), errors: [] }
  })
}

const toOperation = (row) => ({ id: `operation-${row.id}`, state: row.state })

async function deleteSnapshots (_, { input }) {
  return transaction(async (client) => {
    const ids = input.ids.map(number)
    const marked = await client.query({
      name: 'mark',
      text: `UPDATE snapshot SET state = 'DELETING' WHERE id = ANY ($1::bigint[]) AND state IN ('READY', 'ERROR')
        RETURNING id`,
      values: [ids]
    })
    const { rows } = await client.query({
      name: 'delete operations',
      text: `${OPERATION} SELECT m.tenant, 'DELETE_SNAPSHOT', 'QUEUED', m.id, m.kind, m.name, s.id, s.name, 'local', 'local',
        now(), gen_random_uuid()::text, '{"previous": "READY"}', FALSE, 0, 0
        FROM snapshot s JOIN machine m ON m.id = s.machine_id WHERE s.id = ANY ($1::bigint[])
        RETURNING id, state, snapshot_id`,
      values: [marked.rows.map((row) => row.id)]
    })
    const operations = new Map(rows.map((row) => [row.snapshot_id, toOperation(row)]))
    const results = input.ids.map((snapshotId, index) => {
      const operation = operations.get(ids[index])
      return operation
        ? { snapshotId, operation, errors: [] }
        : { snapshotId, errors: [{ code: 'CONFLICT', message: `${snapshotId} cannot be deleted` }] }
    })
    return { results, acceptedCount: operations.size, refusedCount: results.length - operations.size }
  })
}

const resolvers = {
  Query: {
    async vm (_, { id }) {
      const { rows } = await pool.query({
        name: 'vm',
        text: "SELECT id, name, description FROM machine WHERE id = $1 AND kind = 'VM'",
        values: [number(id)]
      })
      return rows.length ? toVm(rows[0]) : null
    },
    async vms (_, { first, after }) {
      const values = after == null ? [] : decode(after)
      const beyond = after == null ? '' : 'AND (s.name, s.id) > ($2, $3::bigint)'
      const { rows } = await pool.query({
        name: `vms ${after != null}`,
        text: `SELECT s.id, s.name, s.description, s.name AS key FROM machine s WHERE s.kind = 'VM' ${beyond}
          ORDER BY s.name, s.id LIMIT $1`,
        values: [limited(first) + 1, ...values]
      })
      return connection(rows, first, after, ORDERS.NAME, toVm)
    }
  },
  Mutation: { createSnapshot, deleteSnapshots }
}

const loaders = {
  Vm: { snapshots },
  SnapshotConnection: { totalCount: totalCounts }
}

const app = Fastify()
app.register(mercurius, { schema, resolvers, loaders, jit: 1 })
await app.listen({ host: '127.0.0.1', port: Number(process.env.PORT) })
