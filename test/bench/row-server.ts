import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { answer, helperOptions } from './children.ts'
import { openRows } from './rows.ts'

/*
 * The other half of that afternoon: a server that answers from rows, each question with one statement and nothing around
 * it: no pages, no choice of format, no tokens.
 */

export interface RowServerOptions {
  folder: string
}

const ofSeries = 'series = (SELECT id FROM series WHERE device = ? AND metric = ?)'
const statements: Record<string, string> = {
  '/raw': `SELECT ts, value FROM points WHERE ${ofSeries} ORDER BY ts`,
  '/means': `SELECT ts / 60000 * 60000 AS ts, avg(value) AS value FROM points WHERE ${ofSeries} GROUP BY 1 ORDER BY 1`,
  '/latest': `SELECT device, metric, ts, value FROM series
    CROSS JOIN points ON series = id AND ts = (SELECT max(ts) FROM points WHERE series = id)`,
}

async function main({ folder }: RowServerOptions): Promise<void> {
  const { db } = openRows(folder)
  const prepared = new Map(Object.entries(statements).map(([path, sql]) => [path, db.prepare(sql)]))
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url as string, 'http://127.0.0.1')
    const body = JSON.stringify({ readings: prepared.get(pathname)?.all(...searchParams.values()) })
    response.setHeader('content-type', 'application/json')
    response.setHeader('content-length', Buffer.byteLength(body))
    response.end(body)
  })
  server.listen(0, '127.0.0.1', () => void answer({ kind: 'ready', port: (server.address() as AddressInfo).port }))
}

await main(helperOptions<RowServerOptions>())
