import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Sink } from '../devices/sink.ts'
import type { TimeWindow } from '../devices/time.ts'
import { createRouter } from '../devices/topics.ts'
import { createAddressGuard } from './delivery/addresses.ts'
import { createConsumers } from './delivery/consumers.ts'
import { createDictionary } from './dictionary.ts'
import { StartError } from './errors.ts'
import { createFeed, type Feed } from './feed.ts'
import { startRetention } from './retention.ts'
import type { Config } from './settings.ts'
import { UnusableFile } from './store/sqlite/schema.ts'
import { openSqliteStore } from './store/sqlite/sqlite-store.ts'
import { createWriter } from './writer.ts'

/** How long readers that do not read may hold up a stop. */
const readerGraceMillis = 1_000

/** A hub that runs. */
export interface Hub {
  mqttPort: number
  httpPort: number
  /** Names this hub in its cursors. */
  id: string
  feed: Feed
  sink: Sink
  window: TimeWindow
  /** Takes no more in, lets go of everything that was acknowledged, ends all readers. Calling it twice is fine. */
  close(): Promise<void>
}

/** Puts all rooms together and opens the doors. Throws `StartError` with what to do when it cannot. */
export async function startHub(config: Config, version: string, log: Logger): Promise<Hub> {
  refuseForeignAddress(config.host)
  // The store opens on a thread of its own; meanwhile this one loads what speaks to the world.
  const [store, { createBroker }, { createSlots, networkOf }, { createHttpServer }, { createGuards }] =
    await Promise.all([
      openSqliteStore({ folder: config.data, durability: config.durability }).catch((error: Error) => {
        throw error.name === UnusableFile.name || error instanceof UnusableFile ? new StartError(error.message) : error
      }),
      import('../broker/broker.ts'),
      import('../broker/slots.ts'),
      import('./http/server.ts'),
      import('./http/guards.ts'),
    ])
  let failure: string | null = null
  store.onStatus((status) => {
    if (status.failure !== null)
      log.error(`storage fails, nothing is acknowledged until it recovers: ${status.failure}`)
    else log.info('storage has recovered')
    failure = status.failure
  })

  store.onDeath((reason) => {
    // Half a hub would take messages in that it cannot answer for. A supervisor starts a whole one.
    log.fatal(`${reason}: the hub ends`)
    process.exit(1)
  })

  const dictionary = createDictionary(store.opened)
  const feed = createFeed(store, dictionary.names, store.opened.end)
  const writer = createWriter(store, dictionary, feed.push)
  const guard = createAddressGuard(config.webhookAllow)
  const consumers = createConsumers({
    version,
    store,
    feed,
    guard,
    save: writer.keep,
    onDisabled: (consumer, reason) => log.warn({ consumer }, `a webhook is disabled: ${reason}`),
  })
  const window = { earliest: config.earliestTime, maxAhead: config.maxAhead }
  const route = createRouter(config.mappings)
  const broker = await createBroker({
    sink: writer satisfies Sink,
    route,
    window,
    limits: config,
    handshakes: store.opened.handshakes,
    failure: () => failure,
    onRefused: (client, reason) => log.warn({ client }, `an MQTT connection has ended: ${reason}`),
  })
  const guards = createGuards({
    limits: config,
    connections: createSlots(config.maxHttpConnections, config.maxHttpConnectionsPerAddress),
    streams: createSlots(config.maxStreams, config.maxStreamsPerAddress),
    networkOf,
  })
  // Its modules load when somebody first asks for figures.
  let metrics: Promise<() => Promise<string>> | null = null
  async function openMetrics() {
    const { createMetrics } = await import('./metrics.ts')
    return createMetrics({
      version,
      durability: config.durability,
      writer: writer.figures,
      store: store.figures,
      broker: () => broker.figures,
      http: () => ({ ...guards.figures, reached: guards.reached }),
      followers: () => feed.followers,
      consumers: consumers.list,
      failure: () => failure,
    })
  }
  const http = await createHttpServer(
    {
      version,
      store,
      feed,
      consumers,
      guard,
      sink: writer,
      guards,
      window,
      route,
      isOnline: broker.isOnline,
      failure: () => failure,
      async metrics() {
        metrics ??= openMetrics().catch((error) => {
          metrics = null
          throw error
        })
        return (await metrics)()
      },
      attachMqtt: broker.attach,
    },
    config.maxPacketSize,
    log,
  )
  const stopRetention = startRetention(store, config, log)

  let closing: Promise<void> | null = null
  // The reverse of the start: no new messages, the last commit and its acknowledgements, the readers, the file.
  async function close(): Promise<void> {
    stopRetention()
    await broker.close(writer.settled)
    await consumers.close()
    await writer.close()
    // Whoever reads is told where he is; whoever does not read is not waited for.
    await Promise.race([feed.close(), sleep(readerGraceMillis)])
    const impatience = setTimeout(guards.hangUp, readerGraceMillis)
    await http.close()
    clearTimeout(impatience)
    await store.close()
  }
  const hub: Hub = {
    mqttPort: 0,
    httpPort: 0,
    id: store.opened.hub,
    feed,
    sink: writer,
    window,
    close() {
      closing ??= close()
      return closing
    },
  }
  try {
    hub.mqttPort = await broker.listen(config.mqttPort, config.host).catch(portProblem('--mqtt-port', config.mqttPort))
    await http
      .listen({ port: config.httpPort, host: config.host, listenTextResolver: (address) => `HTTP at ${address}` })
      .catch(portProblem('--http-port', config.httpPort))
    consumers.start()
    hub.httpPort = (http.server.address() as AddressInfo).port
    return hub
  } catch (error) {
    await hub.close()
    throw error
  }
}

const loopback = new Set(['127.0.0.1', '::1', 'localhost'])

// Without credentials everybody may do everything, so only this machine may come in.
function refuseForeignAddress(host: string): void {
  if (loopback.has(host)) return
  throw new StartError(
    `the hub listens on this machine only (--host 127.0.0.1), because it has no credentials yet; "${host}" would let everybody in`,
  )
}

function portProblem(flag: string, port: number) {
  return (error: NodeJS.ErrnoException): never => {
    if (error.code === 'EADDRINUSE') {
      throw new StartError(
        `port ${port} is in use: stop what uses it, or choose another one with ${flag} (0: any free one)`,
      )
    }
    if (error.code === 'EACCES')
      throw new StartError(`port ${port} needs privileges: choose one above 1023 with ${flag}`)
    throw error
  }
}
