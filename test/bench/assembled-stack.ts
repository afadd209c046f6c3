import { join } from 'node:path'
import Database from 'better-sqlite3'
import { connect } from 'mqtt'
import { answer, helperOptions } from './children.ts'

/*
 * What people put together in an afternoon beside a broker: a subscriber that writes rows of (series, ts, value) to
 * SQLite in transactions. It is written as well as that afternoon allows: one prepared statement, series by number,
 * WAL, a sync for every transaction, and as many messages in one as have arrived meanwhile. What it cannot have is an
 * acknowledgement that waits for the disk: the broker has given it long before.
 */

export interface AssembledOptions {
  port: number
  folder: string
}

interface Message {
  device: string
  payload: Buffer
}

/** Larger transactions were measured to gain nothing more. */
const maxMessages = 5000

async function main({ port, folder }: AssembledOptions): Promise<void> {
  const db = new Database(join(folder, 'telemetry.db'))
  db.pragma('journal_mode = WAL')
  db.pragma('synchronous = FULL')
  db.exec(`
    CREATE TABLE series (id INTEGER PRIMARY KEY, device TEXT NOT NULL, metric TEXT NOT NULL, UNIQUE (device, metric));
    CREATE TABLE points (series INTEGER NOT NULL, ts INTEGER NOT NULL, value REAL, PRIMARY KEY (series, ts)) WITHOUT ROWID;
  `)
  const insertSeries = db.prepare('INSERT INTO series (device, metric) VALUES (?, ?)')
  const insertPoint = db.prepare('INSERT OR REPLACE INTO points (series, ts, value) VALUES (?, ?, ?)')
  const series = new Map<string, Map<string, number>>()
  let waiting: Message[] = []
  let scheduled = false
  let stored = 0

  function seriesOf(device: string, metric: string): number {
    let metrics = series.get(device)
    if (!metrics) {
      metrics = new Map()
      series.set(device, metrics)
    }
    let id = metrics.get(metric)
    if (id === undefined) {
      id = Number(insertSeries.run(device, metric).lastInsertRowid)
      metrics.set(metric, id)
    }
    return id
  }

  const insertAll = db.transaction((messages: Message[]) => {
    for (const { device, payload } of messages) {
      const { ts, ...values } = JSON.parse(payload.toString()) as Record<string, number>
      for (const metric in values) insertPoint.run(seriesOf(device, metric), ts, values[metric])
    }
  })

  function flush(): void {
    scheduled = false
    if (waiting.length === 0) return
    const messages = waiting
    waiting = []
    insertAll(messages)
    stored += messages.length
  }

  const client = connect(`mqtt://127.0.0.1:${port}`, { clientId: 'store', clean: false })
  client.on('message', (topic, payload) => {
    waiting.push({ device: topic.split('/')[1] as string, payload })
    if (waiting.length >= maxMessages) flush()
    else if (!scheduled) {
      scheduled = true
      setTimeout(flush, 20)
    }
  })
  await new Promise((resolve) => client.once('connect', resolve))
  await client.subscribeAsync('devices/+/telemetry', { qos: 1 })
  process.on('message', () => void answer({ kind: 'stored', stored }))
  await answer({ kind: 'ready' })
}

await main(helperOptions<AssembledOptions>())
