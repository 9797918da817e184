// PostGraphile as its documentation says: the Amber preset, the filter plugin, Grafserv on Node's own server.
import { createServer } from 'node:http'
import { grafserv } from 'postgraphile/grafserv/node'
import { makePgService } from 'postgraphile/adaptors/pg'
import { PostGraphileAmberPreset } from 'postgraphile/presets/amber'
import { postgraphile } from 'postgraphile'
import { PostGraphileConnectionFilterPreset } from 'postgraphile-plugin-connection-filter'
import { printSchema } from 'postgraphile/graphql'

const preset = {
  extends: [PostGraphileAmberPreset, PostGraphileConnectionFilterPreset],
  pgServices: [makePgService({ connectionString: process.env.DATABASE_URL, schemas: ['public', 'bench'] })],
  disablePlugins: ['PgIndexBehaviorsPlugin'], // filters and orders by columns without an index of their own, too
  grafserv: { graphiql: false, websockets: false },
  grafast: { explain: false }
}

const instance = postgraphile(preset)
if (process.argv[2] === 'schema') {
  console.log(printSchema(await instance.getSchema()))
  process.exit()
}
const server = createServer()
server.on('error', (error) => {
  console.error(error)
  process.exit(1)
})
await instance.createServ(grafserv).addTo(server)
server.listen(Number(process.env.PORT), '127.0.0.1')
