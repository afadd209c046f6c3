import { type Bench, type Context, type Figure, figure, ratios, type Target } from './bench.ts'
import { startHelper } from './children.ts'
import type { FanOutOptions, FanOutResult } from './fan-out.ts'
import type { FollowersOptions, FollowersResult } from './followers.ts'
import { startHub } from './hub-process.ts'
import type { LoadResult } from './load.ts'
import { runLoad, startLoad } from './loading.ts'
import { availableSystems, type SystemName, startSystem, systemLabels } from './systems.ts'

const targets = {
  live: {
    first: 20,
    later: 5,
    better: 'less',
    note: 'the target counts from the commit; measured is from the sending, which is longer by the acknowledgement',
  },
  fanOut: { first: 0.5, later: 2, better: 'more' },
} satisfies Record<string, Target>

const rate = 5000
const readersOfEachKind = 3
const subscriberCounts = [100, 1000]

async function run(context: Context): Promise<Figure[]> {
  return [...(await measureFeed(context)), ...(await measureFanOut(context))]
}

async function measureFeed({ rounds, seconds, profiles, progress }: Context): Promise<Figure[]> {
  const results: FollowersResult[] = []
  const acknowledged: number[] = []
  for (let round = 1; round <= rounds; round++) {
    const hub = await startHub({ profiles })
    // The code of the hub is warm before anybody follows.
    await runLoad({ port: hub.mqttPort, seconds: 0.5, warmupSeconds: 0.5 })
    const readers = { webSockets: readersOfEachKind, eventStreams: readersOfEachKind, timed: true }
    const followers = startHelper('followers', { port: hub.httpPort, ...readers } satisfies FollowersOptions)
    await followers.receive('following')
    const load = startLoad({ mode: 'open', port: hub.mqttPort, rate, seconds, stamped: true })
    await load.receive('measuring')
    followers.send({ kind: 'measure' })
    const { result: sent } = await load.receive<{ result: LoadResult }>('done')
    followers.send({ kind: 'end' })
    const { result } = await followers.receive<{ result: FollowersResult }>('done')
    await hub.stop()
    results.push(result)
    acknowledged.push(sent.latency?.p50 ?? Number.NaN)
    const { webSocket, eventStream } = result
    progress(`round ${round}: WebSocket p99 ${webSocket.p99.toFixed(2)} ms, SSE p99 ${eventStream.p99.toFixed(2)} ms`)
  }
  return [
    figure(
      'WebSocket at 5,000/s, from the sending: p50',
      'ms',
      results.map(({ webSocket }) => webSocket.p50),
    ),
    figure(
      'WebSocket at 5,000/s, from the sending: p99',
      'ms',
      results.map(({ webSocket }) => webSocket.p99),
      targets.live,
    ),
    figure(
      'SSE at 5,000/s, from the sending: p50',
      'ms',
      results.map(({ eventStream }) => eventStream.p50),
    ),
    figure(
      'SSE at 5,000/s, from the sending: p99',
      'ms',
      results.map(({ eventStream }) => eventStream.p99),
      targets.live,
    ),
    figure('acknowledgement meanwhile: p50', 'ms', acknowledged),
  ]
}

async function measureFanOut(context: Context): Promise<Figure[]> {
  const figures: Figure[] = []
  const systems = availableSystems.filter((name) => name !== 'assembled')
  for (const subscribers of subscriberCounts) {
    const rates: Partial<Record<SystemName, number[]>> = {}
    for (let round = 1; round <= context.rounds; round++) {
      for (const name of systems) {
        const system = await startSystem(name, context)
        const { port, pids } = system
        const options: FanOutOptions = { port, pids, subscribers, warmupSeconds: 1, seconds: context.seconds }
        const helper = startHelper('fan-out', options)
        const { result } = await helper.receive<{ result: FanOutResult }>('done')
        await system.stop()
        rates[name] = [...(rates[name] ?? []), result.deliveriesPerSecond]
        context.progress(
          `${subscribers} subscribers, round ${round}: ${name} ${Math.round(result.deliveriesPerSecond)}/s`,
        )
      }
    }
    const label = `MQTT to ${subscribers} subscribers`
    for (const name of systems)
      figures.push(figure(`${label}: ${systemLabels[name]}`, 'deliveries/s', rates[name] ?? []))
    if (rates.mosquitto) {
      const against = ratios(rates.hub ?? [], rates.mosquitto)
      figures.push(figure(`${label}: hub against Mosquitto`, '×', against, targets.fanOut))
    }
  }
  return figures
}

export const live: Bench = {
  name: 'live',
  description: 'from the sending of a reading to its live readers at 5,000/s, and MQTT fan-out side by side',
  targets,
  run,
}
