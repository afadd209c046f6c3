import type { Duplex } from 'node:stream'
import { createBucket } from './bucket.ts'
import { countReached, type Limits, type Reached } from './limits.ts'
import { createSlots, networkOf } from './slots.ts'

/** A reconnect storm of this many seconds' worth of connections comes in at once. */
const burstSeconds = 1
const turnMillis = 10

/**
 * The door: who may come in, and when. Nothing of a connection is read before that.
 *
 * A connection too many is closed. One that comes too soon waits; addresses take turns, so that one which opens
 * thousands of connections delays nobody but itself.
 */
export function createAdmission(limits: Limits, reached: Reached) {
  const slots = createSlots(limits.maxConnections, limits.maxConnectionsPerAddress)
  const rate = createBucket(limits.connectRate, burstSeconds)
  // Each address with its connections in the order of their arrival; the first address is the next one to be served.
  const waiting = new Map<string, Set<() => void>>()
  let timer: NodeJS.Timeout | null = null

  function serve(): void {
    timer = null
    while (waiting.size > 0 && (rate?.wait() ?? 0) === 0) {
      const [network, queue] = waiting.entries().next().value as [string, Set<() => void>]
      const begin = queue.values().next().value as () => void
      waiting.delete(network)
      queue.delete(begin)
      if (queue.size > 0) waiting.set(network, queue)
      rate?.take(1)
      begin()
    }
    if (waiting.size > 0) timer = setTimeout(serve, turnMillis)
  }

  function wait(stream: Duplex, network: string, begin: () => void): void {
    countReached(reached, 'connectRate')
    const queue = waiting.get(network) ?? new Set()
    waiting.set(network, queue.add(begin))
    stream.once('close', () => {
      queue.delete(begin)
      if (queue.size === 0 && waiting.get(network) === queue) waiting.delete(network)
    })
    timer ??= setTimeout(serve, turnMillis)
  }

  return {
    /** `begin` is called when the turn of the connection has come; never, when it was refused or has gone by then. */
    enter(stream: Duplex, address: string, begin: () => void): void {
      const full = slots.take(address)
      if (full) {
        countReached(reached, full === 'all' ? 'maxConnections' : 'maxConnectionsPerAddress')
        stream.destroy()
        return
      }
      stream.once('close', () => slots.leave(address))
      if (waiting.size > 0 || (rate?.wait() ?? 0) > 0) return wait(stream, networkOf(address), begin)
      rate?.take(1)
      begin()
    },
    get figures() {
      let queued = 0
      for (const { size } of waiting.values()) queued += size
      return { open: slots.taken, waiting: queued }
    },
    close(): void {
      if (timer) clearTimeout(timer)
      waiting.clear()
    },
  }
}
