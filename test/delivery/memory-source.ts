import type { Batch, Source } from '../../src/delivery/pusher.ts'

interface Delivery {
  id: string
  attempt: number
  reading: string
}

/** A consumer in memory, for tests of the pusher: leases do not run out by themselves. */
export interface MemorySource extends Source {
  acknowledged: string[]
  released: { ids: readonly string[]; failures: number; reason: string }[]
  deadLetters: string[]
  extended: string[]
  leased: Set<string>
  /** Those that are neither done nor dead. */
  readonly left: number
  add(readings: number): void
  /** Takes leases away, as a seek does. */
  revoke(): void
  /** Makes the next calls of a method fail. */
  fail: Partial<Record<'receive' | 'acknowledge' | 'release' | 'extend', number>>
}

/** `readings` deliveries, `d0` on; a reading is `{"n":0}`. */
export function createMemorySource(readings: number, maxDeliver = 5, leaseMillis = 30_000): MemorySource {
  const queue: Delivery[] = []
  const known = new Map<string, Delivery>()
  const leased = new Set<string>()
  const waiting = new Set<() => void>()
  let receivers = 0
  let batches = 0

  function failing(method: keyof MemorySource['fail']): void {
    const times = source.fail[method] ?? 0
    if (times === 0) return
    source.fail[method] = times - 1
    throw new Error('the disk is full')
  }

  const source: MemorySource = {
    leaseMillis,
    acknowledged: [],
    released: [],
    deadLetters: [],
    extended: [],
    leased,
    fail: {},
    get left() {
      return queue.length + leased.size
    },
    add(count) {
      for (let n = known.size; count > 0; n++, count--) {
        const delivery = { id: `d${n}`, attempt: 1, reading: `{"n":${n}}` }
        known.set(delivery.id, delivery)
        queue.push(delivery)
      }
      for (const wake of waiting) wake()
    },
    revoke: () => leased.clear(),
    async receive(max, _waitMillis, signal): Promise<Batch | null> {
      failing('receive')
      if (++receivers > 1) throw new Error('two receive at once')
      while (queue.length === 0 && !signal.aborted) {
        await new Promise<void>((resolve) => {
          waiting.add(resolve)
          signal.addEventListener('abort', () => resolve())
        })
      }
      receivers--
      if (signal.aborted) return null
      const deliveries = queue.splice(0, max)
      for (const { id } of deliveries) leased.add(id)
      const attemptsLeft = Math.min(...deliveries.map(({ attempt }) => maxDeliver - attempt + 1))
      return { id: `batch_${batches++}`, attemptsLeft, deliveries: deliveries.map((one) => ({ ...one })) }
    },
    async acknowledge(ids) {
      failing('acknowledge')
      for (const id of ids) if (leased.delete(id)) source.acknowledged.push(id)
    },
    async release(ids, outcome) {
      failing('release')
      source.released.push({ ids, ...outcome })
      for (const id of ids) {
        const delivery = known.get(id) as Delivery
        if (!leased.delete(id)) continue
        delivery.attempt += outcome.failures
        if (delivery.attempt > maxDeliver) source.deadLetters.push(id)
        else queue.unshift(delivery)
      }
      for (const wake of waiting) wake()
    },
    async extend(ids) {
      failing('extend')
      source.extended.push(...ids)
      return ids.every((id) => leased.has(id))
    },
  }
  source.add(readings)
  return source
}
