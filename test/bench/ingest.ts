import { setTimeout as sleep } from 'node:timers/promises'
import { type Bench, type Context, type Figure, figure, ratios, type Target } from './bench.ts'
import { now } from './clock.ts'
import type { Qos } from './frames.ts'
import type { LoadResult } from './load.ts'
import { cpuPer100k, rateOf, runLoad } from './loading.ts'
import { cpuSeconds } from './proc.ts'
import { availableSystems, type System, type SystemName, startSystem, systemLabels } from './systems.ts'

const targets = {
  assembled: { first: 2.5, later: 4, better: 'more' },
  mosquitto: { first: 0.6, later: 1, better: 'more' },
  qos2: { first: 0.4, later: 0.6, better: 'more' },
} satisfies Record<string, Target>

/** What is measured: all systems side by side at one QoS and one number of connections. */
interface Case {
  qos: Qos
  connections: number
  systems: SystemName[]
}

interface Measured {
  rate: number[]
  cpu: number[]
}

function casesOf(full: boolean): Case[] {
  const counts = [1, 10, 100, 1000]
  const cases = counts.map((connections): Case => ({ qos: 1, connections, systems: availableSystems }))
  for (const qos of [0, 2] as const) {
    // The hand-assembled stack is slower by so much that its QoS matters little.
    const systems = full ? availableSystems : availableSystems.filter((name) => name !== 'assembled')
    for (const connections of full ? counts : [100]) cases.push({ qos, connections, systems })
  }
  return cases
}

async function run(context: Context): Promise<Figure[]> {
  const figures: Figure[] = []
  const hubRates = new Map<string, number[]>()
  for (const one of casesOf(context.full)) {
    const label = `QoS ${one.qos}, ${one.connections} connection${one.connections === 1 ? '' : 's'}`
    const measured = await measureCase(one, label, context)
    const { hub, mosquitto, assembled } = measured
    for (const name of one.systems) {
      figures.push(figure(`${label}: ${systemLabels[name]}`, 'messages/s', measured[name]?.rate ?? []))
    }
    if (!hub) continue
    hubRates.set(label, hub.rate)
    if (assembled) {
      const target = one.qos === 1 ? targets.assembled : undefined
      figures.push(figure(`${label}: hub against hand-assembled`, '×', ratios(hub.rate, assembled.rate), target))
    }
    if (mosquitto) {
      const target = one.qos === 1 && one.connections === 100 ? targets.mosquitto : undefined
      figures.push(figure(`${label}: hub against Mosquitto`, '×', ratios(hub.rate, mosquitto.rate), target))
    }
    for (const name of one.systems) {
      figures.push(figure(`${label}: CPU of ${systemLabels[name]}`, 's/100k', measured[name]?.cpu ?? []))
    }
  }
  const [qos1, qos2] = [hubRates.get('QoS 1, 100 connections') ?? [], hubRates.get('QoS 2, 100 connections') ?? []]
  figures.push(figure('QoS 2 against QoS 1, 100 connections', '×', ratios(qos2, qos1), targets.qos2))
  return figures
}

async function measureCase(one: Case, label: string, context: Context) {
  const measured: Partial<Record<SystemName, Measured>> = {}
  for (let round = 1; round <= context.rounds; round++) {
    for (const name of one.systems) {
      const system = await startSystem(name, context)
      const result = await measure(system, name, one, context)
      await system.stop()
      const entry = measured[name] ?? { rate: [], cpu: [] }
      measured[name] = entry
      entry.rate.push(rateOf(result))
      entry.cpu.push(cpuPer100k(result))
      context.progress(`${label}, round ${round}: ${systemLabels[name]} ${Math.round(rateOf(result))}/s`)
    }
  }
  return measured
}

function measure(system: System, name: SystemName, one: Case, { seconds }: Context): Promise<LoadResult> {
  if (name === 'assembled') return measureStored(system, one, seconds)
  if (one.qos === 0) return measurePushed(system, one, seconds)
  const { port, pids } = system
  return runLoad({ port, pids, seconds, connections: one.connections, qos: one.qos })
}

/** QoS 0: the server has read everything; one that stores must have stored it too. */
async function measurePushed(system: System, { connections }: Case, seconds: number): Promise<LoadResult> {
  const { port, pids, stored } = system
  const result = await runLoad({ mode: 'push', qos: 0, port, pids, seconds, connections })
  if (stored === null) return result
  const before = await stored()
  if (before < result.sent) {
    await until(stored, result.sent)
    return { ...result, endedAt: now() }
  }
  return result
}

/** Enough for the slower of machines; what counts is the time until they are stored. */
const assembledPerSecond = 50_000
const assembledWarmup = 20_000

/**
 * The hand-assembled stack acknowledges long before it stores, so what counts is when everything is stored. The load
 * ends long before that, which gives the stack the whole machine for the rest.
 */
async function measureStored(system: System, one: Case, seconds: number): Promise<LoadResult> {
  const { port, pids } = system
  const stored = system.stored as () => Promise<number>
  const load = { port, pids, connections: one.connections, qos: one.qos, warmupSeconds: 0 }
  if (one.qos === 0) {
    const result = await runLoad({ ...load, mode: 'push', seconds: seconds / 4 })
    await until(stored, result.taken)
    return { ...result, endedAt: now() }
  }
  await runLoad({ ...load, messages: assembledWarmup })
  await until(stored, assembledWarmup)
  const messages = assembledPerSecond * seconds
  const cpuBefore = cpuSeconds(pids)
  const result = await runLoad({ ...load, messages })
  await until(stored, assembledWarmup + messages)
  return { ...result, endedAt: now(), cpuSeconds: cpuSeconds(pids) - cpuBefore }
}

/** Waits while the number still grows. */
async function until(stored: () => Promise<number>, expected: number): Promise<void> {
  let last = -1
  let standstill = now()
  for (;;) {
    const count = await stored()
    if (count >= expected) return
    if (count !== last) standstill = now()
    else if (now() - standstill > 5000) throw new Error(`${expected - count} of ${expected} messages were lost`)
    last = count
    await sleep(10)
  }
}

export const ingest: Bench = {
  name: 'ingest',
  description: 'durable messages a second over MQTT, side by side with Mosquitto and with what people assemble by hand',
  targets,
  run,
}
