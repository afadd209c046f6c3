import { expect, test } from 'vitest'
import { createTail } from '../src/tail.ts'

/** A commit of `count` readings, whose bytes tell where it begins. */
function commit(first: number, count: number, length: number) {
  const records = new Uint8Array(length)
  new DataView(records.buffer).setUint32(0, first)
  return { first, count, records }
}

const starts = (tail: ReturnType<typeof createTail>, after: number): number[] =>
  Array.from(tail.from(after), ({ first, records }) => {
    expect(new DataView(records.buffer, records.byteOffset).getUint32(0)).toBe(first)
    return first
  })

test('a tail gives the commits from any place on, also from within one', () => {
  const tail = createTail({ maxReadings: 1e6, maxBytes: 1_000_000 })
  expect(tail.holds(1)).toBe(false)
  for (let first = 1; first < 100; first += 10) tail.push(commit(first, 10, 50))
  expect(tail.holds(1)).toBe(true)
  expect(starts(tail, 1)).toHaveLength(10)
  expect(starts(tail, 81)).toEqual([81, 91])
  expect(starts(tail, 80)).toEqual([71, 81, 91])
  expect(starts(tail, 95)).toEqual([91])
})

test('a tail forgets the oldest commits and keeps every later one, whatever their sizes', () => {
  const maxBytes = 4_000_000
  const tail = createTail({ maxReadings: 1e6, maxBytes })
  const sizes = [40, 100_000, 300_000, 40, 2_000_000, 170_000, 170_000, 40]
  let end = 1
  for (let round = 0; round < 20; round++) for (const size of sizes) tail.push(commit(end++, 1, size))
  expect(tail.holds(1)).toBe(false)
  let first = 1
  while (!tail.holds(first)) first++
  expect(starts(tail, first)).toEqual(Array.from({ length: end - first }, (_, i) => first + i))
  let bytes = 0
  for (const { records } of tail.from(first)) bytes += records.length
  expect(bytes).toBeLessThanOrEqual(maxBytes)
})

test('a commit larger than a tail is held alone', () => {
  const tail = createTail({ maxReadings: 1e6, maxBytes: 1_000_000 })
  tail.push(commit(1, 1, 40))
  tail.push(commit(2, 1, 3_000_000))
  expect(tail.holds(1)).toBe(false)
  expect(starts(tail, 2)).toEqual([2])
  tail.push(commit(3, 1, 40))
  expect(starts(tail, 3)).toEqual([3])
})

test('of small commits a tail holds about as many readings as it shall, and never fewer', () => {
  const tail = createTail({ maxReadings: 8000, maxBytes: 8_000_000 })
  for (let first = 1; first < 100_000; first += 2) {
    tail.push(commit(first, 2, 60))
    expect(tail.holds(Math.max(1, first - 8000))).toBe(true)
  }
  expect(tail.holds(100_000 - 20_000)).toBe(false)
})
