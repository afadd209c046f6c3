import { setTimeout as sleep } from 'node:timers/promises'
import { type Bench, type Context, type Figure, figure, ratios, type Target } from './bench.ts'
import { startHelper } from './children.ts'
import type { ExporterOptions, ExporterResult } from './exporter.ts'
import type { FollowersOptions } from './followers.ts'
import { type HubProcess, startHub } from './hub-process.ts'
import { runLoad } from './loading.ts'
import { mosquittoProgram, startMosquitto } from './mosquitto.ts'
import { type Spread, spread } from './statistics.ts'

const targets = {
  p50: { first: 1, later: 0.5, better: 'less' },
  p99: { first: 5, later: 3, better: 'less' },
  busy: { first: 2, later: 1.3, better: 'less' },
} satisfies Record<string, Target>

/** What there is to export while it is measured. */
const storedReadings = 300_000
const devices = 1000
const liveReaders = 100
/** The first export of feed and history compiles what makes them: once in the life of a hub. */
const warmupSeconds = 4
const noSpread = spread([])

interface Measured {
  alone: Spread
  fast: Spread
  busy: Spread
  lateness: Spread
  /** Mosquitto at the same rate: what the machine itself adds at this moment. */
  reference: Spread
}

async function run(context: Context): Promise<Figure[]> {
  const rounds: Measured[] = []
  for (let round = 1; round <= context.rounds; round++) {
    const hub = await startHub({ profiles: context.profiles })
    await runLoad({ port: hub.mqttPort, devices, messages: storedReadings })
    await sealed(hub)
    const { latency: alone, lateness } = await acknowledgements(hub, 5000, context.seconds)
    const { latency: fast } = await acknowledgements(hub, 20_000, context.seconds)
    const { latency: busy } = await whileRead(hub, () => acknowledgements(hub, 5000, context.seconds), context)
    await hub.stop()
    const reference = mosquittoProgram === null ? noSpread : await ofMosquitto(context)
    if (!alone || !fast || !busy || !lateness || !reference) throw new Error('BUG: an open loop without latencies')
    rounds.push({ alone, fast, busy, lateness, reference })
    const show = ({ p50, p99, max }: Spread): string => `${p50.toFixed(2)} / ${p99.toFixed(2)} / ${max.toFixed(2)} ms`
    context.progress(`round ${round}: 5k/s ${show(alone)}, 20k/s ${show(fast)}, 5k/s while read ${show(busy)}`)
  }
  const of = (kind: keyof Measured, part: 'p50' | 'p99' | 'max'): number[] => rounds.map((round) => round[kind][part])
  const table = (label: string, kind: keyof Measured, judged: boolean): Figure[] => [
    figure(`${label}: p50`, 'ms', of(kind, 'p50'), judged ? targets.p50 : undefined),
    figure(`${label}: p99`, 'ms', of(kind, 'p99'), judged ? targets.p99 : undefined),
    figure(`${label}: max`, 'ms', of(kind, 'max')),
  ]
  return [
    ...table('5,000/s', 'alone', true),
    ...(mosquittoProgram === null ? [] : table('5,000/s, Mosquitto, storing nothing', 'reference', false)),
    ...table('20,000/s', 'fast', false),
    ...table(`5,000/s, an export and ${liveReaders} live readers`, 'busy', false),
    figure('p99 while read against alone', '×', ratios(of('busy', 'p99'), of('alone', 'p99')), targets.busy),
    figure("the load generator's own lateness: p99", 'ms', of('lateness', 'p99')),
  ]
}

async function ofMosquitto({ seconds }: Context): Promise<Spread | null> {
  const { port, stop } = await startMosquitto()
  const { latency } = await runLoad({ mode: 'open', port, devices, rate: 5000, seconds })
  await stop()
  return latency
}

function acknowledgements(hub: HubProcess, rate: number, seconds: number) {
  return runLoad({ mode: 'open', port: hub.mqttPort, pids: [hub.pid], devices, rate, warmupSeconds, seconds })
}

/** Waits until the heads that became due while filling are sealed: else that would fall into one measurement or other. */
async function sealed(hub: HubProcess): Promise<void> {
  for (let before = Number.NaN; ; ) {
    const unsealed = await hub.metric('hub_unsealed_readings')
    if (unsealed === before) return
    before = unsealed
    await sleep(500)
  }
}

/** Runs a measurement while one reader exports everything in a loop and others follow live. */
async function whileRead<T>(hub: HubProcess, measure: () => Promise<T>, context: Context): Promise<T> {
  const half = liveReaders / 2
  const live: FollowersOptions = { port: hub.httpPort, webSockets: half, eventStreams: half, timed: false }
  const followers = startHelper('followers', live)
  await followers.receive('following')
  const exporter = startHelper('exporter', { port: hub.httpPort, devices } satisfies ExporterOptions)
  await exporter.receive('exporting')
  const measured = await measure()
  exporter.send({})
  const { result } = await exporter.receive<{ result: ExporterResult }>('done')
  context.progress(`exported ${(result.bytes / 1e6).toFixed(0)} MB meanwhile, everything ${result.passes} times`)
  await followers.stop()
  return measured
}

export const latency: Bench = {
  name: 'latency',
  description: 'from when a message is due to its acknowledgement, 100 connections at QoS 1, at fixed rates',
  targets,
  run,
}
