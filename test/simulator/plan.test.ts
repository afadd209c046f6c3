import { expect, it } from 'vitest'
import { createPlan, type Plan, type PlanOptions, type Send } from '../../simulator/plan.ts'
import { scenarios } from '../../simulator/scenarios.ts'

const start = Date.UTC(2026, 0, 1)

function plan(options: Partial<PlanOptions> = {}): Plan {
  return createPlan({
    devices: 10,
    connections: 10,
    rate: 1,
    count: Infinity,
    durationMillis: 60_000,
    batch: 1,
    startMillis: start,
    scenario: scenarios.steady!,
    periodMillis: 10_000,
    ...options,
  })
}

function sendsOf(of: Plan, device: number): Send[] {
  return Array.from({ length: of.sends(device) }, (_, index) => of.send(device, index)).filter(
    (send) => send !== undefined,
  )
}

function allSends(of: Plan): Send[] {
  return Array.from({ length: of.devices }, (_, device) => sendsOf(of, device)).flat()
}

it('any send can be asked for at any time, and is always the same', () => {
  const one = plan()
  const late = one.send(3, 41)
  expect(one.send(3, 0)).toEqual(plan().send(3, 0))
  expect(one.send(3, 41)).toEqual(late)
})

it('a rate and a duration make as many readings as their product, evenly over the time', () => {
  const dues = allSends(plan({ devices: 40, rate: 2.5 }))
    .map(({ dueMillis }) => dueMillis)
    .sort((a, b) => a - b)
  expect(dues).toHaveLength(40 * 2.5 * 60)
  dues.forEach((due, at) => void expect(due).toBeCloseTo(at * 10, 5))
})

it.each([1, 7, 100, 101])('a count of %i readings is met exactly', (count) => {
  for (const batch of [1, 8]) {
    const sends = allSends(plan({ count, durationMillis: Infinity, batch }))
    expect(sends.reduce((sum, { readings }) => sum + readings, 0)).toBe(count)
  }
})

it('without a duration and a count it never ends', () => {
  expect(plan({ durationMillis: Infinity }).send(0, 1_000_000)?.dueMillis).toBe(1e9)
})

it('a batch is due with its last reading, and the last batch holds the rest', () => {
  const [first, second, third] = sendsOf(plan({ devices: 1, connections: 1, count: 5, batch: 2 }), 0)
  expect(first).toMatchObject({ firstReading: 0, readings: 2, dueMillis: 1000 })
  expect(second).toMatchObject({ firstReading: 2, readings: 2, dueMillis: 3000 })
  expect(third).toMatchObject({ firstReading: 4, readings: 1, dueMillis: 4000 })
})

it.each([0.1, 1, 333, 5000])(
  'at %d readings a second the times of a device are whole milliseconds that grow',
  (rate) => {
    const one = plan({ rate, batch: 3 })
    for (let reading = 1; reading < 500; reading++) {
      expect(Number.isInteger(one.tsMillis(7, reading))).toBe(true)
      expect(one.tsMillis(7, reading)).toBeGreaterThan(one.tsMillis(7, reading - 1))
    }
  },
)

it.each(Object.entries(scenarios))(
  '%s never sends a device earlier than it did, and never before the reading is taken',
  (_, scenario) => {
    const one = plan({ scenario, batch: 2, rate: 5 })
    for (const device of [0, 3, 9]) {
      let last = 0
      for (const send of sendsOf(one, device)) {
        expect(send.dueMillis).toBeGreaterThanOrEqual(last)
        expect(start + send.dueMillis + 1).toBeGreaterThan(one.tsMillis(device, send.firstReading + send.readings - 1))
        last = send.dueMillis
      }
    }
  },
)

it.each(Object.entries(scenarios))(
  '%s sends every message of the plan, and repeats only where it says so',
  (name, scenario) => {
    for (const count of [10, 57, 600]) {
      const sends = allSends(plan({ scenario, count, durationMillis: Infinity }))
      const distinct = new Set(sends.map(({ device, message }) => `${device} ${message}`))
      expect(distinct.size).toBe(count)
      if (name !== 'duplicates') expect(sends).toHaveLength(count)
    }
  },
)
