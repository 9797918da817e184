// graphql-http's audit suite for GraphQL over HTTP. Prints one line for each of its 61 audits.

import { auditServer } from 'graphql-http';
import { url } from './gateway.js';

const results = await auditServer({ url });
for (const { status, id, name, reason } of results) console.log(status, id, name, reason ? `- ${reason}` : '');
console.log(`${results.filter(({ status }) => status === 'ok').length} of ${results.length}`);
