import type { Millis } from '../devices/reading.ts'
import { type Bucket, createBucket } from './bucket.ts'
import { type Guest, visitorOf } from './doorman.ts'
import { countReached, LimitReached, type Limits, type Reached } from './limits.ts'

/** What one read of a connection held. */
export interface Traffic {
  bytes: number
  messages: number
  /** Work that was done without asking. */
  control: number
  /** Work that has arrived and waits, because `mayWork` said no. */
  waiting: number
}

/** How fast one connection may send. */
export interface Throttle {
  /** Whether the hub does now what a packet asks for; if so, that counts. */
  mayWork(cost: number): boolean
  /** Notes a read, and answers for how long nothing more may be read. Throws when waiting is no cure. */
  pace(traffic: Traffic): Millis
}

/** What a connection has not sent for so long, it may send at once. */
const burstSeconds = 1
/** A dashboard subscribes to all it shows at once, and then is quiet. */
const controlBurstSeconds = 10
/** Who asks for a minute's work ahead, without waiting for an answer to any of it, does not mean the answers. */
const abuseMillis = 60_000

/** Messages and bytes, of one connection or of all those that somebody has. */
interface Rates {
  bytes: Bucket | null
  messages: Bucket | null
}

/**
 * A connection that sends too fast is read more slowly, so that TCP slows the sender down and nothing is lost. All
 * connections of one who has logged in share what he may send; where nobody logs in, each has its own.
 */
export function createThrottles(limits: Limits, reached: Reached): (client: Guest) => Throttle {
  const shared = new Map<string, Rates & { connections: number }>()

  function ratesOf(identity: string, client: Guest, own: Rates): Rates {
    const rates = shared.get(identity) ?? { ...own, connections: 0 }
    shared.set(identity, rates)
    rates.connections++
    client.conn.once('close', () => {
      if (--rates.connections === 0) shared.delete(identity)
    })
    return rates
  }

  return (client) => {
    let rates: Rates = {
      bytes: createBucket(limits.maxByteRate, burstSeconds),
      messages: createBucket(limits.maxMessageRate, burstSeconds),
    }
    let joined = false
    return createThrottle(limits, reached, () => {
      const { identity } = visitorOf(client)
      if (!joined && identity !== '' && !client.conn.destroyed) {
        joined = true
        rates = ratesOf(identity, client, rates)
      }
      return rates
    })
  }
}

function createThrottle(limits: Limits, reached: Reached, ratesNow: () => Rates): Throttle {
  const { maxControlRate } = limits
  const control = createBucket(maxControlRate, controlBurstSeconds)

  return {
    mayWork(cost) {
      if (!control) return true
      if (control.wait() > 0) return false
      control.take(cost)
      return true
    },
    pace(traffic) {
      const { bytes, messages } = ratesNow()
      bytes?.take(traffic.bytes)
      const forBytes = bytes?.wait() ?? 0
      if (forBytes > 0) countReached(reached, 'maxByteRate')
      if (traffic.messages > 0) messages?.take(traffic.messages)
      const forMessages = messages?.wait() ?? 0
      if (forMessages > 0) countReached(reached, 'maxMessageRate')
      if (!control || (traffic.control === 0 && traffic.waiting === 0)) return Math.max(forBytes, forMessages)
      control.take(traffic.control)
      const forControl = control.wait()
      if (forControl + (traffic.waiting / maxControlRate) * 1000 > abuseMillis) {
        throw new LimitReached(
          'maxControlRate',
          `far more than ${maxControlRate} packets a second that are no messages, without waiting for their answers`,
        )
      }
      if (forControl > 0) countReached(reached, 'maxControlRate')
      return Math.max(forBytes, forMessages, forControl)
    },
  }
}
