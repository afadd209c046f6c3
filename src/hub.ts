import { Server as HttpsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Sink } from '../devices/sink.ts'
import type { TimeWindow } from '../devices/time.ts'
import { createRouter } from '../devices/topics.ts'
import { type Access, createAccess } from './access/access.ts'
import { createDoorman } from './access/doorman.ts'
import { createAddressGuard } from './delivery/addresses.ts'
import { createConsumers } from './delivery/consumers.ts'
import { createDictionary } from './dictionary.ts'
import { StartError } from './errors.ts'
import { createFeed, type Feed, type LogOnDisk } from './feed.ts'
import { startRetention } from './retention.ts'
import type { Config } from './settings.ts'
import { UnusableFile } from './store/sqlite/schema.ts'
import { openSqliteStore } from './store/sqlite/sqlite-store.ts'
import type { Opened } from './store/store.ts'
import { loadTls, watchTls } from './tls.ts'
import { createWriter } from './writer.ts'

/** How long readers that do not read may hold up a stop. */
const readerGraceMillis = 1_000

/** A hub that runs. */
export interface Hub {
  /** `null`: nothing listens. */
  mqttPort: number | null
  mqttTlsPort: number | null
  httpPort: number
  /** Names this hub in its cursors. */
  log: Pick<Opened, 'hub' | 'earlier'>
  feed: Feed
  sink: Sink
  window: TimeWindow
  access: Access
  /** Takes no more in, lets go of everything that was acknowledged, ends all readers. Calling it twice is fine. */
  close(): Promise<void>
}

/**
 * Puts all rooms together and opens the doors. Throws `StartError` with what to do when it cannot. `onDeath` hears when
 * the hub can do no more than be closed: half a hub would take messages in that it cannot answer for.
 */
export async function startHub(
  config: Config,
  version: string,
  log: Logger,
  onDeath: (reason: string) => void,
): Promise<Hub> {
  const tls = loadTls(config)
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
  const loopbackOnly = loopback.has(config.host)
  const access = createAccess({
    kept: store.opened.credentials,
    loopbackOnly,
    networkOf,
    save: store.saveCredential,
    remove: store.removeCredential,
    touch: store.touchCredentials,
  })
  if (!loopbackOnly && access.list().length === 0) {
    await access.close()
    await store.close()
    throw openToAll(config)
  }
  store.onCredentials(access.replace)
  if (!loopbackOnly && !tls)
    log.warn('without a certificate, tokens and passwords cross the network in clear: see --tls-cert')
  else if (!loopbackOnly && config.mqttPort !== 'off')
    log.warn('the MQTT port beside that for TLS lets passwords cross the network in clear: see --mqtt-port off')
  let failure: string | null = null
  let onFailure = (): void => {}
  store.onStatus((status) => {
    if (status.failure !== null)
      log.error(`storage fails, nothing is acknowledged until it recovers: ${status.failure}`)
    else log.info('storage has recovered')
    failure = status.failure
    if (failure !== null) onFailure()
  })
  store.onDamage((what) => log.error(`${what}: restore a backup`))
  store.onDeath(onDeath)

  const dictionary = createDictionary(store.opened)
  const guards = createGuards({
    limits: config,
    connections: createSlots(config.maxHttpConnections, config.maxHttpConnectionsPerAddress),
    streams: createSlots(config.maxStreams, config.maxStreamsPerAddress),
    networkOf,
  })
  const readLog: LogOnDisk['readLog'] = (query, reader) => guards.scan(reader, () => store.readLog(query))
  const feed = createFeed({ readLog }, dictionary.names, store.opened.end)
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
    doorman: createDoorman(access),
    restored: store.opened,
    failure: () => failure,
    onRefused: (client, reason, peer) => log.warn({ client, ...peer }, `an MQTT connection has ended: ${reason}`),
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
      access: () => access.figures,
      consumers: consumers.list,
      failure: () => failure,
    })
  }
  const http = await createHttpServer(
    {
      version,
      access,
      corsOrigins: config.corsOrigins,
      trustedProxies: config.trustedProxies,
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
    tls,
  )
  const stopRetention = startRetention(store, config, log)

  let stopWatching = () => {}

  let closing: Promise<void> | null = null
  // The reverse of the start: no new messages, the last commit and its acknowledgements, the readers, the file.
  async function close(): Promise<void> {
    stopWatching()
    stopRetention()
    const failing = new Promise<void>((resolve) => {
      onFailure = resolve
      if (failure !== null) resolve()
    })
    // A disk may fail for hours, and what waits for it is not acknowledged: it may be lost.
    const unlessFailing = async (work: Promise<void>) => void (await Promise.race([work, failing]))
    await broker.close(() => unlessFailing(writer.settled()))
    await unlessFailing(consumers.close())
    await unlessFailing(writer.close())
    if (failure !== null) log.warn('the hub stops while storage fails: what was not acknowledged is not stored')
    // Whoever reads is told where he is; whoever does not read is not waited for.
    await Promise.race([feed.close(), sleep(readerGraceMillis)])
    const impatience = setTimeout(guards.hangUp, readerGraceMillis)
    await http.close()
    clearTimeout(impatience)
    await unlessFailing(access.close())
    await store.close()
  }
  const hub: Hub = {
    mqttPort: null,
    mqttTlsPort: null,
    httpPort: 0,
    log: store.opened,
    feed,
    sink: writer,
    window,
    access,
    close() {
      closing ??= close()
      return closing
    },
  }
  try {
    const { host, mqttPort, mqttTlsPort } = config
    if (mqttPort !== 'off') {
      hub.mqttPort = await broker.listen(mqttPort, host).catch(portProblem('--mqtt-port', mqttPort, host))
    }
    if (tls) {
      const mqtts =
        mqttTlsPort === 'off'
          ? null
          : await broker.listenTls(mqttTlsPort, host, tls).catch(portProblem('--mqtt-tls-port', mqttTlsPort, host))
      hub.mqttTlsPort = mqtts?.port ?? null
      stopWatching = watchTls(
        config,
        tls,
        (renewed) => {
          mqtts?.renew(renewed)
          if (http.server instanceof HttpsServer) http.server.setSecureContext(renewed)
          log.info(`new connections get the certificate that is now in ${config.tlsCert}`)
        },
        (error) => log.error(`the certificate of before stays in use: ${error.message}`),
      )
    }
    await http
      .listen({ port: config.httpPort, host: config.host, listenTextResolver: (address) => `HTTP at ${address}` })
      .catch(portProblem('--http-port', config.httpPort, host))
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
function openToAll({ host, data }: Config): StartError {
  return new StartError(`without credentials the hub listens on this machine only: "${host}" would let everybody in. Make it safe with
  telemetry-hub token create --name admin --role admin --data ${data}
  telemetry-hub --host ${host} --data ${data}`)
}

function portProblem(flag: string, port: number, host: string) {
  return (error: NodeJS.ErrnoException): never => {
    if (error.code === 'EADDRINUSE') {
      throw new StartError(
        `port ${port} is in use: stop what uses it, or choose another one with ${flag} (0: any free one)`,
      )
    }
    if (['EADDRNOTAVAIL', 'ENOTFOUND', 'EAI_AGAIN'].includes(error.code ?? '')) {
      throw new StartError(`"${host}" is no address of this machine: choose one with --host (0.0.0.0: all of them)`)
    }
    if (error.code === 'EACCES')
      throw new StartError(`port ${port} needs privileges: choose one above 1023 with ${flag}`)
    throw error
  }
}
