import { describe, expect, it } from 'vitest'
import { deviceSeed, profiles } from '../../devices/profiles.ts'
import { metricProblem } from '../../devices/reading.ts'

const noon = Date.UTC(2026, 5, 1, 12)
const minute = 60_000

describe.each(Object.values(profiles))('the profile $name', (profile) => {
  it('samples exactly the metrics that it names, with finite values', () => {
    for (let at = 0; at < 2000; at++) {
      const sample = profile.sample(deviceSeed(42, at % 50), noon + at * 7 * minute, at)
      expect(Object.keys(sample)).toEqual(profile.metrics.map(({ name }) => name))
      for (const value of Object.values(sample)) {
        if (typeof value === 'number') expect(Number.isFinite(value) && !Object.is(value, -0)).toBe(true)
      }
    }
    expect(profile.metrics.map(({ name }) => metricProblem(name)).filter(Boolean)).toEqual([])
  })

  it('gives the same sample for the same seed, time and number, whatever was sampled before', () => {
    const first = profile.sample(deviceSeed(1, 2), noon, 3)
    profile.sample(deviceSeed(9, 9), noon - 1e9, 4)
    expect(profile.sample(deviceSeed(1, 2), noon, 3)).toEqual(first)
    expect(profile.sample(deviceSeed(1, 3), noon, 3)).not.toEqual(first)
    expect(profile.sample(deviceSeed(2, 2), noon, 3)).not.toEqual(first)
  })

  it('reports decimals as a sensor would', () => {
    for (let at = 0; at < 500; at++) {
      for (const value of Object.values(profile.sample(deviceSeed(42, at), noon + at, at))) {
        if (typeof value === 'number') expect(String(value)).toMatch(/^-?\d+(\.\d{1,5})?$/)
      }
    }
  })

  it('has no value that stands still for a day', () => {
    const seen = new Map<string, Set<unknown>>(profile.metrics.map(({ name }) => [name, new Set()]))
    for (let device = 0; device < 20; device++) {
      for (let at = 0; at < 288; at++) {
        const sample = profile.sample(deviceSeed(42, device), noon + at * 5 * minute, at)
        for (const [name, value] of Object.entries(sample)) seen.get(name)!.add(value)
      }
    }
    expect([...seen].filter(([, values]) => values.size < 2).map(([name]) => name)).toEqual([])
  })
})

it.each([
  ['smart-meter', 'energy_kwh'],
  ['vehicle', 'odometer'],
  ['machine', 'parts'],
])('the counter %s %s never falls and does grow', (name, counter) => {
  for (let device = 0; device < 20; device++) {
    const seed = deviceSeed(7, device)
    const read = (at: number) => profiles[name]!.sample(seed, noon + at * 10_000, at)[counter] as number
    const values = Array.from({ length: 2 * 8640 }, (_, at) => read(at))
    expect(values.findIndex((value, at) => value < values[at - 1]!)).toBe(-1)
    expect(values.at(-1)).toBeGreaterThan(values[0]!)
  }
})

it('temperature changes smoothly from one second to the next', () => {
  const seed = deviceSeed(42, 0)
  const read = (second: number) =>
    profiles.environment!.sample(seed, noon + second * 1000, second).temperature as number
  const steps = Array.from({ length: 7200 }, (_, second) => Math.abs(read(second + 1) - read(second)))
  expect(Math.max(...steps)).toBeLessThan(0.3)
})

it('a vehicle that is parked stands still', () => {
  const parked = Array.from({ length: 1000 }, (_, at) => profiles.vehicle!.sample(deviceSeed(1, at), noon, at)).filter(
    ({ state }) => state === 'parked',
  )
  expect(parked.length).toBeGreaterThan(100)
  expect(parked.every(({ speed, ignition }) => speed === 0 && ignition === false)).toBe(true)
})
