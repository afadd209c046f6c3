import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import type { Consumer } from './delivery/consumer.ts'
import type { StoreFigures } from './store/store.ts'
import type { WriterFigures } from './writer.ts'

/** Where the figures come from, asked anew for each answer. */
export interface MetricSources {
  version: string
  durability: string
  writer: WriterFigures
  store(): Promise<StoreFigures>
  broker(): {
    connections: number
    sockets: { open: number; waiting: number }
    subscriptions: number
    reached: Record<string, number>
    devicesOnline: number
    published: number
    refused: number
    dropped: number
    sessions: {
      retained: number
      sessions: number
      wills: number
      willsDisowned: number
      sessionsExpired: number
      damaged: number
      retainedBytes: number
      queuedBytes: number
      queueExpired: number
      queued: number
      queueDropped: number
      retainedDropped: number
      incoming: number
    }
  }
  http(): {
    connections: number
    streams: number
    queries: number
    scans: number
    unsent: number
    reached: Record<string, number>
  }
  followers(): number
  access(): { credentials: number; failed: number; slowed: number }
  consumers(): Consumer[]
  failure(): string | null
}

type Figures = {
  writer: WriterFigures
  store: StoreFigures | null
  broker: ReturnType<MetricSources['broker']>
  sources: MetricSources
}
type Figure = [type: 'counter' | 'gauge', name: string, help: string, read: (figures: Figures) => number | undefined]

const figures: Figure[] = [
  ['counter', 'hub_readings_total', 'Readings stored since the start', ({ writer }) => writer.readings],
  [
    'counter',
    'hub_values_total',
    'Values taken in since the start, duplicates included',
    ({ writer }) => writer.values,
  ],
  ['counter', 'hub_duplicates_total', 'Readings that were stored before', ({ writer }) => writer.duplicates],
  ['counter', 'hub_rejected_total', 'Items that went to the quarantine', ({ writer }) => writer.rejected],
  ['counter', 'hub_commits_total', 'Commits, each with one sync', ({ writer }) => writer.commits],
  [
    'gauge',
    'hub_storage_failing',
    '1 while nothing can be stored',
    ({ sources }) => (sources.failure() === null ? 0 : 1),
  ],
  ['gauge', 'hub_log_oldest_offset', 'First reading that the log keeps', ({ store }) => store?.oldest],
  ['gauge', 'hub_log_end_offset', 'One past the last reading of the log', ({ store }) => store?.end],
  ['gauge', 'hub_log_bytes', 'Size of the log, about', ({ store }) => store?.logBytes],
  ['gauge', 'hub_devices', 'Devices that are known', ({ store }) => store?.devices],
  ['gauge', 'hub_metrics', 'Names of metrics that are known', ({ store }) => store?.metrics],
  [
    'gauge',
    'hub_unsealed_readings',
    'Readings that wait in memory to be sealed in blocks',
    ({ store }) => store?.unsealed,
  ],
  [
    'gauge',
    'hub_damaged_blocks',
    'Blocks of history that were found damaged since the start, and passed over',
    ({ store }) => store?.damagedBlocks,
  ],
  ['gauge', 'hub_quarantine_entries', 'Entries in the quarantine', ({ store }) => store?.quarantined],
  [
    'counter',
    'hub_quarantine_dropped_total',
    'Entries that the quarantine lost to its limit',
    ({ store }) => store?.quarantineDropped,
  ],
  ['gauge', 'hub_database_bytes', 'Size of the database file', ({ store }) => store?.fileBytes],
  ['gauge', 'hub_wal_bytes', 'Size of its write-ahead log', ({ store }) => store?.walBytes],
  ['gauge', 'hub_mqtt_connections', 'MQTT connections', ({ broker }) => broker.connections],
  [
    'gauge',
    'hub_mqtt_sockets',
    'Open MQTT connections, also those without a CONNECT',
    ({ broker }) => broker.sockets.open,
  ],
  [
    'gauge',
    'hub_mqtt_waiting',
    'MQTT connections whose turn to begin has not come',
    ({ broker }) => broker.sockets.waiting,
  ],
  [
    'gauge',
    'hub_mqtt_subscriptions',
    'Subscriptions of clients that are connected or remembered',
    ({ broker }) => broker.subscriptions,
  ],
  ['gauge', 'hub_devices_online', 'Devices that are online', ({ broker }) => broker.devicesOnline],
  [
    'counter',
    'hub_mqtt_published_total',
    'MQTT messages that went to their subscribers',
    ({ broker }) => broker.published,
  ],
  ['counter', 'hub_mqtt_refused_total', 'Connections that ended with an error', ({ broker }) => broker.refused],
  [
    'counter',
    'hub_mqtt_dropped_total',
    'Messages that a stalled subscriber did not get',
    ({ broker }) => broker.dropped,
  ],
  ['gauge', 'hub_mqtt_retained', 'Retained messages', ({ broker }) => broker.sessions.retained],
  [
    'counter',
    'hub_mqtt_retained_dropped_total',
    'Messages that were not retained, for the limit',
    ({ broker }) => broker.sessions.retainedDropped,
  ],
  ['gauge', 'hub_mqtt_sessions', 'Persistent sessions', ({ broker }) => broker.sessions.sessions],
  [
    'counter',
    'hub_mqtt_sessions_expired_total',
    'Persistent sessions that were forgotten',
    ({ broker }) => broker.sessions.sessionsExpired,
  ],
  [
    'counter',
    'hub_mqtt_notes_damaged_total',
    'Pieces of session state that could not be read at the start',
    ({ broker }) => broker.sessions.damaged,
  ],
  ['gauge', 'hub_mqtt_retained_bytes', 'Size of retained messages', ({ broker }) => broker.sessions.retainedBytes],
  ['gauge', 'hub_mqtt_queued_bytes', 'Size of messages that wait', ({ broker }) => broker.sessions.queuedBytes],
  [
    'counter',
    'hub_mqtt_queue_expired_total',
    'Messages that waited for too long',
    ({ broker }) => broker.sessions.queueExpired,
  ],
  ['gauge', 'hub_mqtt_queued', 'Messages that wait for their clients', ({ broker }) => broker.sessions.queued],
  [
    'counter',
    'hub_mqtt_queue_dropped_total',
    'Messages that a full queue lost',
    ({ broker }) => broker.sessions.queueDropped,
  ],
  ['gauge', 'hub_mqtt_wills', 'Wills of connected clients', ({ broker }) => broker.sessions.wills],
  [
    'counter',
    'hub_mqtt_wills_disowned_total',
    'Wills left when the hub was killed, whose owners may not publish them any more',
    ({ broker }) => broker.sessions.willsDisowned,
  ],
  ['gauge', 'hub_mqtt_incoming_qos2', 'QoS 2 exchanges that are open', ({ broker }) => broker.sessions.incoming],
  [
    'gauge',
    'hub_credentials',
    'Tokens and devices that may come in; 0: everybody on this machine',
    ({ sources }) => sources.access().credentials,
  ],
  [
    'counter',
    'hub_access_failed_total',
    'Wrong tokens and passwords, over MQTT and HTTP',
    ({ sources }) => sources.access().failed,
  ],
  [
    'counter',
    'hub_access_slowed_total',
    'Attempts that were not looked at, after too many wrong ones',
    ({ sources }) => sources.access().slowed,
  ],
  ['gauge', 'hub_http_connections', 'HTTP connections', ({ sources }) => sources.http().connections],
  ['gauge', 'hub_http_streams', 'Answers that stay open, and polls that wait', ({ sources }) => sources.http().streams],
  ['gauge', 'hub_http_queries', 'Questions that wait for their answers', ({ sources }) => sources.http().queries],
  ['gauge', 'hub_http_unsent_bytes', 'Answers that wait to be taken', ({ sources }) => sources.http().unsent],
  [
    'gauge',
    'hub_feed_scans',
    'Readers whose turn at the log on disk has not come',
    ({ sources }) => sources.http().scans,
  ],
  ['gauge', 'hub_feed_followers', 'Readers that follow the feed live', ({ sources }) => sources.followers()],
]

type ConsumerFigure = [name: string, help: string, read: (figures: ReturnType<Consumer['figures']>) => number]

const consumerFigures: ConsumerFigure[] = [
  ['hub_consumer_lag', 'Readings of the log after the place of a consumer', ({ lag }) => lag],
  ['hub_consumer_pending', 'Readings delivered and not acknowledged', ({ pending }) => pending],
  ['hub_consumer_acknowledged_total', 'Readings acknowledged', ({ acknowledged }) => acknowledged],
  ['hub_consumer_redelivered_total', 'Readings delivered again', ({ redelivered }) => redelivered],
  ['hub_consumer_missed_total', 'Readings that the log forgot before they were delivered', ({ missed }) => missed],
  ['hub_consumer_dead_letters', 'Readings given up', ({ deadLetters }) => deadLetters],
  [
    'hub_consumer_oldest_pending_seconds',
    'Age of the oldest delivery that nobody has acknowledged',
    ({ oldestPending }) => (oldestPending ?? 0) / 1000,
  ],
]

/** The figures in the text format of Prometheus, made when they are asked for. */
export function createMetrics(sources: MetricSources): () => Promise<string> {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  new Gauge({
    name: 'hub_info',
    help: 'What runs here',
    labelNames: ['version', 'durability'],
    registers: [registry],
  }).set({ version: sources.version, durability: sources.durability }, 1)
  const collected = figures.map(([type, name, help, read]) => {
    if (type === 'gauge') return { read, metric: new Gauge({ name, help, registers: [registry] }) }
    return { read, metric: new Counter({ name, help, registers: [registry] }) }
  })
  const ofConsumers = consumerFigures.map(([name, help, read]) => {
    const kind = name.endsWith('_total') ? Counter : Gauge
    return { read, metric: new kind({ name, help, labelNames: ['consumer'], registers: [registry] }) }
  })
  const limits = new Counter({
    name: 'hub_limit_reached_total',
    help: 'How often a client met a limit, by the name of its setting; unansweredRequests has none: 32 of a connection',
    labelNames: ['limit'],
    registers: [registry],
  })
  return async () => {
    const now: Figures = {
      writer: sources.writer,
      store: await sources.store().catch(() => null),
      broker: sources.broker(),
      sources,
    }
    for (const { read, metric } of collected) {
      const value = read(now)
      metric.reset()
      if (value === undefined) continue
      if (metric instanceof Gauge) metric.set(value)
      else metric.inc(value)
    }
    limits.reset()
    for (const reached of [now.broker.reached, sources.http().reached]) {
      for (const [limit, times] of Object.entries(reached)) limits.inc({ limit }, times)
    }
    for (const { metric } of ofConsumers) metric.reset()
    for (const consumer of sources.consumers()) {
      const standing = consumer.figures(Date.now())
      for (const { read, metric } of ofConsumers) metric.inc({ consumer: consumer.name }, read(standing))
    }
    return registry.metrics()
  }
}
