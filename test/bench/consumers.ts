import { setTimeout as sleep } from 'node:timers/promises'
import { type Bench, type Context, type Figure, figure, ratios } from './bench.ts'
import { now } from './clock.ts'
import { createAgent, type Fetched, fetchText, sendJson } from './http-client.ts'
import { type HubProcess, startHub } from './hub-process.ts'
import { runLoad } from './loading.ts'
import { cpuSeconds, residentBytes } from './proc.ts'
import { median } from './statistics.ts'

const pageReadings = 1000
const pages = 50
/** More than the newest commits, which stay in memory: both read the file, as a reader that is behind does. */
const storedReadings = 400_000
const idleConsumers = 1000
/** CPU time is counted in hundredths of a second: at rest it takes longer to see any. */
const restTimes = 3
/** Until the heap has given back what the work before has left. */
const settleMillis = 3000
/** While readings come; slow enough that both hubs of a pair fit on a small machine. */
const loadPerSecond = 500
const loadConnections = 10

async function run(context: Context): Promise<Figure[]> {
  return [...(await measureReceive(context)), ...(await measureIdle(context))]
}

/** A thousand readings at a time: by a page of the feed, and by a consumer that acknowledges them. */
async function measureReceive({ rounds, profiles, progress }: Context): Promise<Figure[]> {
  const pageMillis: number[] = []
  const receiveMillis: number[] = []
  const acknowledgeMillis: number[] = []
  for (let round = 1; round <= rounds; round++) {
    const hub = await startHub({ profiles })
    await runLoad({ port: hub.mqttPort, messages: storedReadings })
    const agent = createAgent()
    const path = '/v1/consumers/bench'
    await sendJson(hub.httpPort, 'PUT', path, { start: 'earliest' }, agent)
    // Each reads what the other one has not: else the second would find the pages of the file in memory.
    let cursor = await cursorAfter(hub, pages)
    const times = { page: [] as number[], receive: [] as number[], acknowledge: [] as number[] }
    for (let i = 0; i < pages; i++) {
      const page = await fetchText(hub.httpPort, `/v1/feed?limit=${pageReadings}&after=${cursor}`, agent)
      cursor = cursorOf(page)
      const receive = await sendJson(hub.httpPort, 'POST', `${path}/receive`, { max: pageReadings }, agent)
      const { deliveries } = JSON.parse(receive.text) as { deliveries: { id: string }[] }
      if (deliveries.length !== pageReadings) throw new Error(`received ${deliveries.length} readings`)
      const upTo = deliveries.at(-1)?.id
      const acknowledge = await sendJson(hub.httpPort, 'POST', `${path}/acknowledge`, { upTo }, agent)
      times.page.push(page.millis)
      times.receive.push(receive.millis)
      times.acknowledge.push(acknowledge.millis)
    }
    agent.destroy()
    await hub.stop()
    pageMillis.push(median(times.page))
    receiveMillis.push(median(times.receive))
    acknowledgeMillis.push(median(times.acknowledge))
    const [page, receive, acknowledge] = [pageMillis, receiveMillis, acknowledgeMillis].map((all) => all.at(-1))
    progress(`round ${round}: page ${page?.toFixed(2)}, receive ${receive?.toFixed(2)} + ${acknowledge?.toFixed(2)} ms`)
  }
  const both = receiveMillis.map((millis, round) => millis + at(acknowledgeMillis, round))
  return [
    figure('a page of 1,000 of the feed', 'ms', pageMillis),
    figure('a receive of 1,000', 'ms', receiveMillis),
    figure('its acknowledgement by upTo, durable', 'ms', acknowledgeMillis),
    figure('receive and acknowledgement against the page', '×', ratios(both, pageMillis)),
  ]
}

async function cursorAfter({ httpPort }: HubProcess, count: number): Promise<string> {
  let cursor = 'earliest'
  for (let i = 0; i < count; i++) {
    cursor = cursorOf(await fetchText(httpPort, `/v1/feed?limit=${pageReadings}&after=${cursor}`))
  }
  return cursor
}

function cursorOf({ text }: Fetched): string {
  return (JSON.parse(text) as { cursor: string }).cursor
}

interface Rest {
  residentMegabytes: number
  /** Milliseconds of CPU time a second. */
  idle: number
  loaded: number
}

/** Two hubs at the same time, so that whatever else the machine does hits both; one has consumers that nobody reads. */
async function measureIdle({ rounds, seconds, profiles, progress }: Context): Promise<Figure[]> {
  const without: Rest[] = []
  const having: Rest[] = []
  for (let round = 1; round <= rounds; round++) {
    const hubs = [await startHub({ profiles }), await startHub({ profiles })] as const
    // Both have as many requests and commits behind them, so that what differs is what is left.
    await Promise.all([createConsumers(hubs[0], 'and delete'), createConsumers(hubs[1], 'and change')])
    await sleep(settleMillis)
    const residents = hubs.map(({ pid }) => residentBytes(pid) / 1024 / 1024)
    const idle = await cpuMillisPerSecond(hubs, () => sleep(restTimes * seconds * 1000))
    const loaded = await cpuMillisPerSecond(hubs, () =>
      Promise.all(
        hubs.map(({ mqttPort: port }) =>
          runLoad({ mode: 'open', port, rate: loadPerSecond, connections: loadConnections, warmupSeconds: 0, seconds }),
        ),
      ),
    )
    await Promise.all(hubs.map((hub) => hub.stop()))
    for (const [i, rests] of [without, having].entries()) {
      rests.push({ residentMegabytes: at(residents, i), idle: at(idle, i), loaded: at(loaded, i) })
    }
    progress(`round ${round}: ${JSON.stringify({ without: without.at(-1), having: having.at(-1) })}`)
  }
  const of = (rests: Rest[], what: keyof Rest): number[] => rests.map((rest) => rest[what])
  const more = of(having, 'residentMegabytes').map((size, i) => size - at(of(without, 'residentMegabytes'), i))
  const table = (label: string, what: keyof Rest, unit: string): Figure[] => [
    figure(`${label}: without consumers`, unit, of(without, what)),
    figure(`${label}: with 1,000`, unit, of(having, what)),
  ]
  return [
    ...table('resident', 'residentMegabytes', 'MB'),
    figure(
      'an idle consumer',
      'KB',
      more.map((megabytes) => (megabytes * 1024) / idleConsumers),
    ),
    ...table('CPU a second, at rest', 'idle', 'ms'),
    ...table(`CPU a second, at ${loadPerSecond}/s`, 'loaded', 'ms'),
  ]
}

async function createConsumers({ httpPort }: HubProcess, then: 'and delete' | 'and change'): Promise<void> {
  const agent = createAgent()
  for (let i = 0; i < idleConsumers; i++) {
    const path = `/v1/consumers/idle-${i}`
    const settings = { filter: { device: `d${i}-*` } }
    await sendJson(httpPort, 'PUT', path, settings, agent)
    if (then === 'and delete') await sendJson(httpPort, 'DELETE', path, {}, agent)
    else await sendJson(httpPort, 'PUT', path, { ...settings, ackWait: '60s' }, agent)
  }
  agent.destroy()
}

function at(values: readonly number[], place: number): number {
  return values[place] ?? Number.NaN
}

async function cpuMillisPerSecond(hubs: readonly HubProcess[], during: () => Promise<unknown>): Promise<number[]> {
  const begun = now()
  const before = hubs.map(({ pid }) => cpuSeconds([pid]))
  await during()
  const seconds = (now() - begun) / 1000
  return hubs.map(({ pid }, i) => ((cpuSeconds([pid]) - at(before, i)) * 1000) / seconds)
}

export const consumers: Bench = {
  name: 'consumers',
  description: 'what acknowledging costs against the feed, and what a thousand idle consumers cost',
  targets: {},
  run,
}
