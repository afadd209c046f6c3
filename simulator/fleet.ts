import { createHistogram, type RecordableHistogram } from 'node:perf_hooks'
import { connect, type IClientOptions, type MqttClient } from 'mqtt'
import { Failure } from './failure.ts'
import type { Load, Message } from './load.ts'

/** The connections, and the one timer that sends what falls due. */
export interface Fleet {
  readonly stats: FleetStats
  /** Opens the connections over `rampMillis`. Resolves when all are open, or after some patience when some are. */
  connect(rampMillis: number, signal: AbortSignal): Promise<void>
  /** Starts the clock and sends the load. */
  start(load: Load): void
  elapsedMillis(): number
  /** The load has a message for a connection that had none. */
  wake(connection: number): void
  /** Takes nothing more from the load; what is in flight goes on. */
  stop(): void
  close(): Promise<void>
}

export interface FleetStats {
  connected: number
  reconnects: number
  errors: number
  lastError: string | null
  /** Messages without their acknowledgement. */
  inFlight: number
  messages: number
  /** Readings, repeats included. */
  sent: number
  acknowledged: number
  bad: number
  /** Microseconds from due to PUBACK (QoS 1), PUBCOMP (QoS 2), or the socket (QoS 0). */
  latency: RecordableHistogram
}

export interface FleetOptions {
  broker: string
  /** The same for error messages, without user and password. */
  shownBroker: string
  clientIds: string[]
  /** Of one connection: its user and its secrets. */
  login(clientId: string): Pick<IClientOptions, 'username' | 'password'>
  ca: Buffer | undefined
  qos: 0 | 1 | 2
  /** Messages in flight on one connection. */
  window: number
  /** How often every connection has been cut by then. */
  drops(elapsedMillis: number): number
}

interface Connection {
  client: MqttClient | undefined
  /** Open, and everything that was in flight when it broke is sent again. */
  ready: boolean
  inFlight: number
  /** When it has something to send; Infinity while it cannot send. */
  nextDue: number
  /** Counts the times it broke: a callback from before has no say. */
  session: number
  pumping: boolean
}

/** How long a broker may take to answer the first connection. */
const patienceMillis = 5000
const reconnectMillis = 1000
/** Longest sleep of the scheduler: a bound for how late a cut of the connections is. */
const maxSleepMillis = 100
const closeMillis = 2000

export function createFleet(options: FleetOptions): Fleet {
  const { qos, window } = options
  const connections: Connection[] = options.clientIds.map(() => ({
    client: undefined,
    ready: false,
    inFlight: 0,
    nextDue: Infinity,
    session: 0,
    pumping: false,
  }))
  const stats: FleetStats = {
    connected: 0,
    reconnects: 0,
    errors: 0,
    lastError: null,
    inFlight: 0,
    messages: 0,
    sent: 0,
    acknowledged: 0,
    bad: 0,
    latency: createHistogram({ figures: 3 }),
  }
  const publishOptions = { qos }
  let startedAt = Number.NaN
  let load: Load | undefined
  let timer: NodeJS.Timeout | undefined
  let wakeAt = Infinity
  let dropped = 0

  const elapsedMillis = () => (Number.isNaN(startedAt) ? 0 : performance.now() - startedAt)

  function open(index: number): void {
    const connection = connections[index]!
    const clientId = options.clientIds[index]!
    const client = connect(options.broker, {
      clientId,
      ...options.login(clientId),
      ...(options.ca ? { ca: options.ca } : {}),
      clean: true,
      keepalive: 60,
      // Otherwise every publish sets a timer.
      reschedulePings: false,
      reconnectPeriod: reconnectMillis,
      reconnectOnConnackError: true,
      log: silent,
    })
    connection.client = client
    client.on('connect', () => {
      if (qos === 2 && client.options.clean === true) {
        // Exactly once needs a session that outlives the connection, and a new run must not inherit packet
        // identifiers from a session that an earlier run left behind: the first, clean connection discards it.
        client.options.clean = false
        client.reconnect()
        return
      }
      // QoS 0 waits for the socket once for each message in the window.
      client.stream.setMaxListeners(0)
      if (connection.session > 0) stats.reconnects++
      connection.ready = true
      stats.connected++
      wake(index)
    })
    client.on('close', () => closed(connection))
    client.on('error', (error) => {
      stats.errors++
      stats.lastError = describe(error)
    })
  }

  function closed(connection: Connection): void {
    if (!connection.ready) return
    connection.ready = false
    connection.nextDue = Infinity
    connection.session++
    stats.connected--
    if (qos > 0) return
    // Nobody will ever tell what became of these.
    stats.inFlight -= connection.inFlight
    connection.inFlight = 0
  }

  /** Sends what is due as far as the window goes, and notes when to look again. */
  function pump(index: number, connection: Connection): void {
    if (connection.pumping) return
    connection.pumping = true
    connection.nextDue = Infinity
    while (load && connection.ready && connection.inFlight < window) {
      const now = elapsedMillis()
      const due = load.nextDue(index)
      if (due > now) {
        connection.nextDue = due
        break
      }
      publish(connection, index, load, load.take(index, now))
    }
    connection.pumping = false
  }

  function publish(connection: Connection, index: number, from: Load, message: Message): void {
    const { session } = connection
    connection.inFlight++
    stats.inFlight++
    stats.messages++
    stats.sent += message.readings
    if (message.bad) stats.bad += message.readings
    connection.client!.publish(message.topic, message.payload, publishOptions, (error) => {
      if (qos === 0 && session !== connection.session) return
      connection.inFlight--
      stats.inFlight--
      if (error) {
        stats.errors++
        stats.lastError = describe(error)
        return
      }
      stats.latency.record(Math.max(1, Math.round((elapsedMillis() - message.dueMillis) * 1000)))
      if (qos > 0) {
        stats.acknowledged += message.readings
        from.acknowledged(message)
      }
      wake(index)
    })
  }

  function wake(index: number): void {
    const connection = connections[index]!
    pump(index, connection)
    if (connection.nextDue < wakeAt) sleep(connection.nextDue - elapsedMillis())
  }

  function tick(): void {
    const now = elapsedMillis()
    const drops = options.drops(now)
    if (drops > dropped && load && !load.finished()) {
      dropped = drops
      for (const connection of connections) {
        if (!connection.ready) continue
        closed(connection)
        connection.client!.stream.destroy()
      }
    }
    let soonest = Infinity
    for (let index = 0; index < connections.length; index++) {
      const connection = connections[index]!
      if (connection.nextDue <= now) pump(index, connection)
      if (connection.nextDue < soonest) soonest = connection.nextDue
    }
    sleep(soonest - elapsedMillis())
  }

  function sleep(millis: number): void {
    if (!load) return
    const bounded = Math.min(Math.max(millis, 1), maxSleepMillis)
    clearTimeout(timer)
    wakeAt = elapsedMillis() + bounded
    timer = setTimeout(tick, bounded)
  }

  return {
    stats,
    elapsedMillis,
    wake,

    async connect(rampMillis, signal) {
      const begun = performance.now()
      let opened = 0
      while (stats.connected < connections.length && !signal.aborted) {
        const waited = performance.now() - begun
        const share = rampMillis > 0 ? Math.min(1, waited / rampMillis) : 1
        for (const goal = Math.ceil(share * connections.length); opened < goal; opened++) open(opened)
        if (waited > rampMillis + patienceMillis) {
          if (stats.connected > 0) return
          throw new Failure(1, unreachable(options.shownBroker, stats.lastError))
        }
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
    },

    start(what) {
      startedAt = performance.now()
      load = what
      tick()
      for (let index = 0; index < connections.length; index++) wake(index)
    },

    stop() {
      load = undefined
      clearTimeout(timer)
    },

    async close() {
      this.stop()
      await Promise.all(connections.map((connection) => end(connection)))
    },
  }
}

/** Says goodbye where there is somebody to hear it; a broker that does not answer is left after a while. */
function end(connection: Connection): Promise<void> {
  const { client, ready, inFlight } = connection
  connection.client = undefined
  if (!client) return Promise.resolve()
  return new Promise((resolve) => {
    const giveUp = setTimeout(() => {
      client.stream.destroy()
      resolve()
    }, closeMillis)
    client.end(!ready || inFlight > 0, () => {
      clearTimeout(giveUp)
      resolve()
    })
  })
}

function silent(): void {}

/** Node reports a host with several addresses as an error without words around one error an address. */
function describe(error: Error): string {
  const first = error instanceof AggregateError ? error.errors[0] : error
  return first instanceof Error && first.message !== '' ? first.message : String((error as NodeJS.ErrnoException).code)
}

const advice: [RegExp, string][] = [
  [/user ?name|password|authori[sz]ed|refused: (Bad|Not)/i, 'give the right --username and --password'],
  [/ECONNREFUSED/, 'start it, or name another with --broker'],
  [/ENOTFOUND|EAI_AGAIN/, 'check the host name in --broker'],
  [/certificate|self.signed|issuer/i, 'name the file of its certificate authority with --ca'],
]

function unreachable(broker: string, lastError: string | null): string {
  const hint = advice.find(([pattern]) => pattern.test(lastError ?? ''))?.[1] ?? 'check --broker'
  return `no connection to ${broker} (${lastError ?? 'no answer'}): ${hint}`
}
