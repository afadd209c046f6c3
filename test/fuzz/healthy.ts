import { connectAsync } from 'mqtt'
import { type HubProcess, readWholeHistory } from '../hub-process.ts'

/**
 * A device and a reader that do what they should, beside those that do not: one message and one request after the
 * other, and how long the slowest of each took.
 */
export async function startHealthy(hub: HubProcess, device = 'healthy') {
  const client = await connectAsync(hub.mqtt, { clientId: device, reconnectPeriod: 0 })
  const worst = { mqtt: 0, http: 0 }
  let running = true
  let acknowledged = 0

  async function timed(kind: 'mqtt' | 'http', work: () => Promise<unknown>): Promise<void> {
    const begun = performance.now()
    await work()
    worst[kind] = Math.max(worst[kind], performance.now() - begun)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }

  async function push(): Promise<void> {
    while (running) {
      const body = JSON.stringify({ ts: 1_700_000_000_000 + acknowledged, n: acknowledged })
      await timed('mqtt', () => client.publishAsync(`devices/${device}/telemetry`, body, { qos: 1 }))
      acknowledged++
    }
  }

  async function pull(): Promise<void> {
    while (running) await timed('http', () => hub.get(`/v1/devices?devices=${device}`))
  }

  const work = Promise.all([push(), pull()])
  // Told when it is stopped; until then nobody listens.
  work.catch(() => {})
  return {
    /** The slowest of each in milliseconds, and how many of the acknowledged messages are stored. */
    async stop() {
      running = false
      await work
      const stored = await readWholeHistory(hub, device)
      await client.endAsync(true)
      return { worst, acknowledged, stored: stored.length }
    },
  }
}
