import { createHash } from 'node:crypto'
import type { Consumer, Delivery } from './consumer.ts'
import { readDeliveryId } from './delivery-id.ts'
import type { Batch, Source } from './pusher.ts'

/** A request carries at most so many characters of readings, whatever `batch` says. */
const maxBatchCharacters = 1024 * 1024
const patienceMillis = 60_000

/** A consumer as its pusher sees it. */
export function createPushSource(consumer: Consumer): Source {
  async function receive(max: number, waitMillis: number, signal: AbortSignal): Promise<Batch | null> {
    const deliveries = await consumer.receive(max, patienceMillis, signal)
    const deadline = Date.now() + waitMillis
    let characters = sizeOf(deliveries)
    while (deliveries.length > 0 && deliveries.length < max && characters < maxBatchCharacters) {
      const left = deadline - Date.now()
      if (left <= 0 || signal.aborted) break
      // Nobody else extends the leases of what is collected here.
      const more = await consumer.receive(max - deliveries.length, Math.min(left, consumer.ackWait / 3), signal)
      await consumer.extend(deliveries.map(({ id }) => id))
      characters += sizeOf(more)
      deliveries.push(...more)
    }
    return deliveries.length === 0 ? null : batchOf(deliveries)
  }

  function batchOf(deliveries: Delivery[]): Batch {
    const { maxDeliver } = consumer.settings
    const most = deliveries.reduce((most, { attempt }) => Math.max(most, attempt), 1)
    // The same readings have the same id, also after a restart; a seek, which is meant to repeat them, begins new ids.
    const epoch = readDeliveryId(deliveries[0]?.id ?? '')?.epoch
    const digest = createHash('sha256').update(`${consumer.name},${epoch}`)
    for (const { offset } of deliveries) digest.update(`,${offset}`)
    const id = `msg_${digest.digest('base64url').slice(0, 22)}`
    return { id, attemptsLeft: Math.max(1, maxDeliver - (most - 1)), deliveries }
  }

  return {
    get leaseMillis() {
      return consumer.ackWait
    },
    receive,
    async acknowledge(ids) {
      await consumer.acknowledge(ids)
    },
    async release(ids, { failures, reason }) {
      const spent = (id: string) => (readDeliveryId(id)?.attempt ?? 1) - 1 + failures >= consumer.settings.maxDeliver
      const given = ids.filter(spent)
      const kept = ids.filter((id) => !spent(id))
      if (kept.length > 0) await consumer.release(kept, 0, failures)
      if (given.length > 0) await consumer.reject(given, reason)
    },
    async extend(ids) {
      const { count } = await consumer.extend(ids)
      return count > 0
    },
  }
}

function sizeOf(deliveries: readonly Delivery[]): number {
  return deliveries.reduce((sum, { reading }) => sum + reading.length, 0)
}
