import { answer, helperOptions } from './children.ts'
import { closedLoop } from './closed-loop.ts'
import { closeConnections, openConnections } from './connections.ts'
import type { Qos } from './frames.ts'
import { openLoop } from './open-loop.ts'
import { pushLoop } from './push-loop.ts'
import type { Spread } from './statistics.ts'

/*
 * The load generator, a process of its own. How it sends is its mode:
 *
 *   closed  so many messages in flight on each connection; QoS 1 and 2
 *   push    as fast as TCP takes it, and then until the server has read everything; QoS 0
 *   open    at a fixed rate, whatever the server does; QoS 1
 *   idle    connections that send nothing, until they are told to end
 */
export interface LoadOptions {
  mode: 'closed' | 'push' | 'open' | 'idle'
  port: number
  connections: number
  devices: number
  qos: Qos
  /** Messages in flight on one connection. */
  inFlight: number
  warmupSeconds: number
  seconds: number
  /** Send so many and stop, whatever the time; 0: no such limit. */
  messages: number
  /** Messages a second, in the open mode. */
  rate: number
  stamped: boolean
  /** The processes whose CPU time is taken at the beginning and the end of the measurement. */
  pids: number[]
}

export interface LoadResult {
  /** By the monotonic clock that all processes share. */
  startedAt: number
  endedAt: number
  /** Messages that the server took within the measurement. */
  taken: number
  /** All that were sent, those of the warm-up included. */
  sent: number
  cpuSeconds: number
  /** Milliseconds from when a message was due to its acknowledgement; in the open mode. */
  latency: Spread | null
  /** Milliseconds from when a message was due to its sending: the generator's own share. */
  lateness: Spread | null
}

const modes = { closed: closedLoop, push: pushLoop, open: openLoop }

async function main(options: LoadOptions): Promise<void> {
  if (options.mode === 'idle') {
    const sockets = await openConnections(options.port, options.connections, 'idle-', () => {})
    await answer({ kind: 'connected' })
    await new Promise((resolve) => process.once('message', resolve))
    closeConnections(sockets)
  } else {
    await answer({ kind: 'done', result: await modes[options.mode](options) })
  }
  process.exit(0)
}

// Imported for its types, it does nothing.
if (process.argv[1] === import.meta.filename) await main(helperOptions<LoadOptions>())
