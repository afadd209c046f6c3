import { readFileSync } from 'node:fs'
import { basename, extname } from 'node:path'
import { createSecureContext } from 'node:tls'
import { profiles, type Sample } from '../devices/profiles.ts'
import { openCsv } from './csv-rows.ts'
import { Failure } from './failure.ts'
import { createFleet, type FleetStats } from './fleet.ts'
import { createLedger, type Ledger } from './ledger.ts'
import { createProfileLoad, type Load } from './load.ts'
import { createTimeReader } from './local-time.ts'
import type { Options } from './options.ts'
import { createPlan } from './plan.ts'
import { createReplayLoad } from './replay.ts'
import { latencyMillis, progressLine, type Summary } from './report.ts'
import { type Scenario, scenarios } from './scenarios.ts'
import { assertVerifiable, compileTemplate, type Render, renderPlain } from './template.ts'
import { type Verification, verify } from './verify.ts'

/** What a run has to do with the world besides MQTT and HTTP. */
export interface Surroundings {
  /** Aborts when the user wants the run to end: what is in flight is waited for a little, then all is summed up. */
  interrupted: AbortSignal
  progress(line: string): void
  progressEveryMillis: number
}

/** After an interruption, for acknowledgements that are on their way. */
const drainMillis = 5000
/** Everything was due long ago and no acknowledgement comes: the hub is gone for good. */
const stalledMillis = 60_000
/** At QoS 0 nothing says when the hub is through with what was written to the socket. */
const settleMillis = 1000
const rampMillisEach = 1
const lookMillis = 20

/** One whole run. Throws a Failure when it cannot begin or not go on. */
export async function simulate(options: Options, surroundings: Surroundings): Promise<Summary> {
  const qos = Number(options.qos) as 0 | 1 | 2
  const scenario = scenarios[options.scenario]!
  const ledger = options.verify === undefined ? undefined : createLedger()
  // All that can be wrong with the options is found before anything connects.
  const source =
    options.replay === undefined
      ? prepareProfile(options, scenario, ledger)
      : await prepareReplay(options, options.replay, ledger)
  const broker = withoutSecrets(options.broker)
  const fleet = createFleet({
    broker: options.broker,
    shownBroker: broker,
    clientIds: source.clientIds,
    login: (clientId) => ({
      ...(options.username === undefined ? {} : { username: options.username.replaceAll('{{device}}', clientId) }),
      ...(options.password === undefined ? {} : { password: options.password.replaceAll('{{device}}', clientId) }),
    }),
    ca: options.ca === undefined ? undefined : readCertificate(options.ca),
    qos,
    window: options.inflight,
    drops: (elapsedMillis) => scenario.drops?.(elapsedMillis, options.period) ?? 0,
  })
  const { stats } = fleet

  try {
    await fleet.connect(options.ramp ?? source.clientIds.length * rampMillisEach, surroundings.interrupted)
    const load = source.begin(fleet.wake)
    if (!surroundings.interrupted.aborted) fleet.start(load)
    const end = await follow(load, fleet, qos, surroundings)
    fleet.stop()
    await fleet.close()
    source.throwIfBroken()

    if (qos === 0 && ledger) await pause(settleMillis)
    let verification: Verification | null = null
    let failure = end.failure
    try {
      if (ledger && options.verify !== undefined) {
        verification = await verify({ hub: options.verify, token: options.token, names: source.names, ledger })
      }
      if (verification?.ok === false) failure ??= 'the history is not what was sent and acknowledged'
    } catch (error) {
      // What the load came to is worth knowing all the same.
      if (!(error instanceof Failure)) throw error
      failure = error.message
    }
    return {
      broker,
      load: source.title,
      devices: source.names.length,
      connections: source.clientIds.length,
      qos,
      seconds: round(end.elapsedMillis / 1000),
      due: end.due,
      sent: stats.sent,
      acknowledged: stats.acknowledged,
      bad: stats.bad,
      messages: stats.messages,
      rate: end.elapsedMillis > 0 ? round((done(stats, qos) * 1000) / end.elapsedMillis) : 0,
      latencyMillis: latencyMillis(stats),
      reconnects: stats.reconnects,
      errors: { count: stats.errors, last: stats.lastError },
      replay: source.rows(),
      verification,
      failure,
      exitCode: failure === null ? 0 : 1,
    }
  } finally {
    source.close()
    await fleet.close()
  }
}

/** Where the readings of a run come from. */
interface Source {
  title: string
  clientIds: string[]
  /** Of the devices by their index; of a replay, those that have appeared. */
  names: string[]
  /** The first reading of live devices is of this moment. */
  begin(wake: (connection: number) => void): Load
  rows(): Summary['replay']
  throwIfBroken(): void
  close(): void
}

function prepareProfile(options: Options, scenario: Scenario, ledger: Ledger | undefined): Source {
  const profile = profiles[options.profile]!
  const names = Array.from({ length: options.devices }, (_, device) => `${options['device-prefix']}${device + 1}`)
  const connections = options.connections ?? options.devices
  const start = options.start === undefined ? undefined : createTimeReader(options['time-zone']).read(options.start)
  if (typeof start === 'string') throw new Failure(2, `--start: ${start}`)
  const render = compileRender(
    options,
    profile.metrics.map(({ name }) => name),
    profile.sample(0, 0, 0),
  )
  return {
    title: `${options.profile}, ${options.scenario}`,
    clientIds: names.slice(0, connections),
    names,
    begin() {
      const startMillis = start ?? Date.now()
      const plan = createPlan({
        devices: options.devices,
        connections,
        rate: options['total-rate'] === undefined ? options.rate : options['total-rate'] / options.devices,
        count: options.count ?? Infinity,
        durationMillis: options.duration ?? Infinity,
        batch: options.batch,
        startMillis,
        scenario,
        periodMillis: options.period,
      })
      return createProfileLoad({ plan, scenario, profile, seed: options.seed, startMillis, names, render, ledger })
    },
    rows: () => null,
    throwIfBroken: () => {},
    close: () => {},
  }
}

async function prepareReplay(options: Options, file: string, ledger: Ledger | undefined): Promise<Source> {
  const device = options.device ?? basename(file, extname(file))
  const connections = options.connections ?? 1
  const csv = await openCsv({
    file,
    timeColumn: options['time-column'],
    deviceColumn: options['device-column'],
    device,
    times: createTimeReader(options['time-zone']),
  })
  const replay = createReplayLoad({
    source: csv,
    connections,
    batch: options.batch,
    count: options.count ?? Infinity,
    speed: options.speed,
    render: compileRender(options, csv.metrics, Object.fromEntries(csv.metrics.map((metric) => [metric, 0]))),
    ledger,
  })
  return {
    title: file,
    clientIds: Array.from({ length: connections }, (_, at) => (connections === 1 ? device : `${device}-${at + 1}`)),
    names: replay.names,
    begin(wake) {
      replay.start(wake)
      return replay
    },
    rows: () => ({
      rows: replay.rows,
      skipped: csv.skipped.count,
      // Records that cannot be told apart are met while the rows before them still wait.
      firstSkipped: csv.skipped.first.toSorted((a, b) => a.line - b.line),
    }),
    throwIfBroken() {
      if (replay.failure) throw replay.failure
    },
    close: csv.close,
  }
}

function compileRender(options: Options, metrics: string[], sample: Sample): Render {
  const template = options['payload-template']
  if (template === undefined) return renderPlain
  const render = compileTemplate(template, metrics)
  if (options.verify !== undefined) assertVerifiable(render, sample)
  return render
}

/** Watches the load until it has drained, the user has enough, or nothing moves any more. */
async function follow(
  load: Load,
  fleet: { stats: FleetStats; elapsedMillis(): number; stop(): void },
  qos: 0 | 1 | 2,
  { interrupted, progress, progressEveryMillis }: Surroundings,
) {
  const { stats } = fleet
  let shownAt = 0
  let shownDone = 0
  let movedAt = 0
  let lastDone = 0
  for (;;) {
    await pause(lookMillis)
    const now = fleet.elapsedMillis()
    if (now - shownAt >= progressEveryMillis) {
      const rate = ((done(stats, qos) - shownDone) * 1000) / (now - shownAt)
      progress(progressLine(stats, now, load.due(now).readings, rate))
      shownAt = now
      shownDone = done(stats, qos)
    }
    if (interrupted.aborted) return drain(load, fleet)
    if (stats.inFlight === 0 && load.finished())
      return { elapsedMillis: now, due: load.due(now).readings, failure: null }
    if (done(stats, qos) !== lastDone || !load.due(now).all) {
      lastDone = done(stats, qos)
      movedAt = now
    }
    if (now - movedAt > stalledMillis) {
      const due = load.due(now).readings
      const failure = `gave up: for ${stalledMillis / 1000} s nothing was acknowledged, and there is more to send`
      return { elapsedMillis: now, due, failure }
    }
  }
}

async function drain(load: Load, fleet: { stats: FleetStats; elapsedMillis(): number; stop(): void }) {
  const elapsedMillis = fleet.elapsedMillis()
  const due = load.due(elapsedMillis).readings
  fleet.stop()
  while (fleet.stats.inFlight > 0 && fleet.elapsedMillis() - elapsedMillis < drainMillis) await pause(lookMillis)
  return { elapsedMillis, due, failure: null }
}

function done(stats: FleetStats, qos: 0 | 1 | 2): number {
  return qos === 0 ? stats.sent : stats.acknowledged
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000
}

function pause(millis: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, millis))
}

function readCertificate(file: string): Buffer {
  try {
    const ca = readFileSync(file)
    createSecureContext({ ca })
    return ca
  } catch (error) {
    throw new Failure(2, `--ca cannot be read: ${(error as Error).message}`, error)
  }
}

function withoutSecrets(broker: string): string {
  const url = new URL(broker)
  return `${url.protocol}//${url.host}${url.pathname === '/' ? '' : url.pathname}`
}
