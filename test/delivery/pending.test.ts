import { expect, test } from 'vitest'
import { createPending, type Run } from '../../src/delivery/pending.ts'
import { createRandom } from '../random.ts'

const run = (from: number, to: number, attempt = 1, ready = 100): Run => ({ from, to, attempt, ready, since: 0 })

test('acknowledged in their order, a thousand readings stay one run', () => {
  const pending = createPending([run(1, 1001)])
  for (let offset = 1; offset < 900; offset++) {
    expect(pending.cut(offset, offset + 1)).toHaveLength(1)
    expect(pending.runs).toHaveLength(1)
  }
  expect(pending.count).toBe(101)
})

test('what is delivered alike and lies side by side is one run', () => {
  const pending = createPending()
  for (let offset = 1; offset <= 100; offset++) pending.add(run(offset, offset + 1))
  pending.add(run(101, 102, 2))
  expect(pending.runs).toEqual([run(1, 101), run(101, 102, 2)])
})

test.for([1, 2, 3, 4, 5])('agrees with a plain map of readings, whatever is cut and put back (seed %i)', (seed) => {
  const random = createRandom(seed)
  const pending = createPending()
  const plain = new Map<number, { attempt: number; ready: number }>()
  let next = 1
  for (let step = 0; step < 2000; step++) {
    const kind = random.next()
    const from = random.integer(1, next + 5)
    const to = from + random.integer(1, 40)
    if (kind < 0.3) {
      const added = run(next, next + random.integer(1, 30), 1, random.integer(0, 1000))
      for (let offset = added.from; offset < added.to; offset++) plain.set(offset, { ...added })
      pending.add(added)
      next = added.to + random.integer(0, 3)
    } else if (kind < 0.6) {
      const cut = pending.cut(from, to)
      const offsets = cut.flatMap((piece) => Array.from({ length: piece.to - piece.from }, (_, i) => piece.from + i))
      const expected = [...plain.keys()].filter((offset) => offset >= from && offset < to).sort((a, b) => a - b)
      expect(offsets).toEqual(expected)
      for (const piece of cut) {
        for (let offset = piece.from; offset < piece.to; offset++) {
          expect(plain.get(offset)).toMatchObject({ attempt: piece.attempt, ready: piece.ready })
          plain.delete(offset)
        }
        if (random.next() < 0.5) continue
        const again = { ...piece, attempt: piece.attempt + 1, ready: random.integer(0, 1000) }
        pending.add(again)
        for (let offset = again.from; offset < again.to; offset++) plain.set(offset, { ...again })
      }
    } else if (kind < 0.8) {
      const now = random.integer(0, 1000)
      const most = random.integer(1, 50)
      const ready = pending.ready(now, most)
      const offsets = ready.flatMap((piece) => Array.from({ length: piece.to - piece.from }, (_, i) => piece.from + i))
      const expected = [...plain].filter(([, entry]) => entry.ready <= now).map(([offset]) => offset)
      expect(offsets).toEqual(expected.sort((a, b) => a - b).slice(0, most))
    } else {
      const earliest = [...plain.values()].reduce(
        (least, { ready }) => Math.min(least, ready),
        Number.POSITIVE_INFINITY,
      )
      expect(pending.nextReady() ?? Number.POSITIVE_INFINITY).toBe(earliest)
      expect(pending.peek(from, to).reduce((sum, piece) => sum + piece.to - piece.from, 0)).toBe(
        [...plain.keys()].filter((offset) => offset >= from && offset < to).length,
      )
    }
    expect(pending.count).toBe(plain.size)
  }
})
