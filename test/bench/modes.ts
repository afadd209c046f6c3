import { type Bench, type Context, type Figure, figure } from './bench.ts'
import { startHelper } from './children.ts'
import { type HubProcess, startHub } from './hub-process.ts'
import type { LoadResult } from './load.ts'
import { runLoad, startLoad } from './loading.ts'
import type { ReaderOptions, ReaderResult, Way } from './reader.ts'

const labels: Record<Way, string> = {
  mqtt0: 'MQTT, QoS 0',
  mqtt1: 'MQTT, QoS 1',
  webSocket: 'WebSocket',
  eventStream: 'SSE',
  lines: 'NDJSON',
  longPoll: 'long polling',
  poll: 'polling, 1 s',
  consumer: 'consumer',
  webhook: 'webhook',
  webhookAtOnce: 'webhook, batchWait 0',
}

/** Readings a second. A rare one takes longer to measure: else there would be no p99 to speak of. */
const rates = [
  { perSecond: 500, times: 1 },
  { perSecond: 10, times: 3 },
]

/**
 * Each way out alone, in turns, at the same hub and the same rates: the readers must not take the machine from each
 * other, and one bell wakes them all.
 */
async function run({ rounds, seconds, profiles, progress }: Context): Promise<Figure[]> {
  const measured = new Map<string, { way: Way; perSecond: number; results: ReaderResult[] }>()
  for (let round = 1; round <= rounds; round++) {
    const hub = await startHub({ profiles, settings: ['--webhook-allow', '127.0.0.0/8'] })
    // The code of the hub is warm before anybody reads.
    await runLoad({ port: hub.mqttPort, seconds: 0.5, warmupSeconds: 0.5 })
    for (const { perSecond, times } of rates) {
      for (const way of Object.keys(labels) as Way[]) {
        const result = await readWhile(hub, way, perSecond, seconds * times)
        const label = `${labels[way]} at ${perSecond}/s`
        const known = measured.get(label)
        if (known) known.results.push(result)
        else measured.set(label, { way, perSecond, results: [result] })
        progress(`round ${round}: ${label}: ${describe(result)}`)
      }
    }
    await hub.stop()
  }
  return [...measured].flatMap(([label, { results }]) => [
    figure(
      `${label}: p50`,
      'ms',
      results.map(({ latency }) => latency.p50),
    ),
    figure(
      `${label}: p99`,
      'ms',
      results.map(({ latency }) => latency.p99),
    ),
    figure(
      `${label}: bytes a reading`,
      'B',
      results.map(({ bytes, readings }) => bytes / readings),
    ),
    figure(
      `${label}: messages a reading`,
      '',
      results.map(({ messages, readings }) => messages / readings),
    ),
  ])
}

async function readWhile(hub: HubProcess, way: Way, rate: number, seconds: number): Promise<ReaderResult> {
  const { mqttPort, httpPort } = hub
  const reader = startHelper('reader', { way, mqttPort, httpPort } satisfies ReaderOptions)
  await reader.receive('reading')
  // Longer than any reader waits for more: it is in its stride when the measurement begins.
  const load = startLoad({ mode: 'open', port: mqttPort, rate, seconds, warmupSeconds: 1.5, stamped: true })
  await load.receive('measuring')
  reader.send({ kind: 'measure' })
  await load.receive<{ result: LoadResult }>('done')
  // At once: what was sent last and is still on its way weighs as much as what was on its way at the beginning.
  reader.send({ kind: 'end' })
  const { result } = await reader.receive<{ result: ReaderResult }>('done')
  return result
}

function describe({ latency: { p50, p99 }, bytes, messages, readings }: ReaderResult): string {
  const times = `p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms`
  return `${times}, ${(bytes / readings).toFixed(0)} bytes and ${(messages / readings).toFixed(3)} messages a reading`
}

export const modes: Bench = {
  name: 'modes',
  description: 'each way out of the hub: from the sending of a reading to its reader, bytes and messages a reading',
  targets: {},
  run,
}
