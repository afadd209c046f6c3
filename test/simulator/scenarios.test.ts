import { expect, it } from 'vitest'
import { scenarios } from '../../simulator/scenarios.ts'
import { run, type StandInHub, startStandInHub } from './stand-in-hub.ts'

/** 20 devices, 12 readings each, all verified. */
async function play(scenario: string, ...args: string[]) {
  await using hub = await startStandInHub()
  const summary = await run(hub, [
    ...['--scenario', scenario, '--devices', '20', '--rate', '40', '--count', '240', '--verify', hub.http],
    ...args,
  ])
  expect(summary.verification).toMatchObject({ ok: true, missing: 0, different: 0, duplicated: 0, unexpected: 0 })
  expect(summary.exitCode).toBe(0)
  return { hub, summary }
}

function payloads(hub: StandInHub, device: string) {
  return hub.received.filter(({ topic }) => topic === `devices/${device}/telemetry`).map(({ payload }) => payload)
}

function times(hub: StandInHub, device: string): number[] {
  return payloads(hub, device).map((payload) => JSON.parse(payload).ts)
}

it('steady: every reading is sent once, in the order of its time', async () => {
  const { hub, summary } = await play('steady')
  expect(summary).toMatchObject({ due: 240, sent: 240, acknowledged: 240, bad: 0, messages: 240 })
  expect(summary.verification).toMatchObject({ sent: 240, acknowledged: 240, stored: 240, excluded: 0 })
  const of = times(hub, 'sim-7')
  expect(of).toHaveLength(12)
  expect(of).toEqual(of.toSorted((a, b) => a - b))
})

it('burst: what a period gathers falls due in the first tenth of the next', () => {
  const due = scenarios.burst!.due!
  for (let at = 0; at < 50_000; at += 37) {
    const sent = due(at, 10_000)
    expect(Math.floor(sent / 10_000)).toBe(Math.floor(at / 10_000) + 1)
    expect(sent % 10_000).toBeLessThan(1000)
  }
})

it('burst: all of it arrives', async () => {
  const { summary } = await play('burst', '--period', '200ms')
  expect(summary.acknowledged).toBe(240)
})

it('reconnect-storm: all connections are cut once a period, and nothing is lost', async () => {
  const { summary } = await play('reconnect-storm', '--rate', '8', '--period', '700ms')
  expect(summary.reconnects).toBeGreaterThanOrEqual(20)
  expect(summary.acknowledged).toBe(240)
})

it('clock-skew: wrong clocks are stored as they are, two devices in ten go to the quarantine', async () => {
  const { hub, summary } = await play('clock-skew')
  expect(summary).toMatchObject({ sent: 240, bad: 48, verification: { stored: 192, excluded: 48 } })
  expect(hub.quarantine).toHaveLength(48)
  expect(times(hub, 'sim-7')[0]! - times(hub, 'sim-1')[0]!).toBeGreaterThan(599_000)
  expect(times(hub, 'sim-9')[0]).toBeLessThan(60_000)
  expect(times(hub, 'sim-10')[0]! * 1000).toBeGreaterThan(Date.UTC(2000))
})

it('late-data: messages overtake each other, and some devices send the day before', async () => {
  const { hub } = await play('late-data')
  const of = times(hub, 'sim-1')
  expect(of).not.toEqual(of.toSorted((a, b) => a - b))
  expect(new Set(of).size).toBe(12)
  expect(of[0]! - times(hub, 'sim-4')[0]!).toBeGreaterThan(86_000_000)
})

it('duplicates: one message of five comes again to the letter, and is expected once', async () => {
  const { hub, summary } = await play('duplicates')
  expect(summary).toMatchObject({ sent: 280, acknowledged: 280, verification: { sent: 240, stored: 240 } })
  const of = payloads(hub, 'sim-1')
  expect(of).toHaveLength(14)
  expect(of[5]).toBe(of[2])
})

it('bad-payloads: one message in ten cannot be read, each in another way', async () => {
  const { hub, summary } = await play('bad-payloads', '--devices', '2')
  expect(summary).toMatchObject({ sent: 240, bad: 24, verification: { stored: 216, excluded: 24 } })
  expect(hub.quarantine).toHaveLength(24)
  expect(new Set(hub.quarantine.map((payload) => payload.slice(0, 30))).size).toBeGreaterThanOrEqual(8)
})

it('schema-drift: names, types and shapes change, and all of it can be stored', async () => {
  const { hub } = await play('schema-drift', '--devices', '2')
  const shapes = payloads(hub, 'sim-1').map((payload) => JSON.parse(payload).values)
  expect(shapes[0].firmware).toBeUndefined()
  expect(shapes[20].firmware).toBe('2.0.0')
  expect(typeof shapes[40].temperature).toBe('string')
  expect(shapes[60].temperature_v2).toBeTypeOf('number')
  expect(shapes[80].data.temperature).toBeTypeOf('number')
  expect(shapes[100].temperature).toBeUndefined()
  expect(hub.quarantine).toEqual([])
})
