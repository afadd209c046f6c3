import { connect } from 'mqtt'
import { answer, helperOptions } from './children.ts'
import { openRows } from './rows.ts'

/*
 * What people put together in an afternoon beside a broker: a subscriber that writes rows to SQLite, with a sync for
 * every transaction, and as many messages in one as have arrived meanwhile. What it cannot have is an
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
  const rows = openRows(folder)
  let waiting: Message[] = []
  let scheduled = false
  let stored = 0

  const insertAll = rows.db.transaction((messages: Message[]) => {
    for (const { device, payload } of messages) {
      const { ts, ...values } = JSON.parse(payload.toString()) as Record<string, number>
      rows.insert(device, ts as number, values)
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
