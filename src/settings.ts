import { isIP } from 'node:net'
import type { Millis } from '../devices/reading.ts'
import { defaultWindow, parseRfc3339 } from '../devices/time.ts'
import type { Mapping } from '../devices/topics.ts'
import type { Durability } from './store/sqlite/schema.ts'
import { parseDuration, parseSize } from './units.ts'

/** How the hub runs. Durations are milliseconds, sizes bytes. */
export interface Config {
  host: string
  /** `off`: nothing listens. */
  mqttPort: number | 'off'
  mqttTlsPort: number | 'off'
  httpPort: number
  tlsCert: string
  tlsKey: string
  tlsClientCa: string
  data: string
  durability: Durability
  logLevel: string
  logRetention: number
  logMaxSize: number
  historyRetention: number
  earliestTime: number
  maxAhead: number
  webhookAllow: string[]
  corsOrigins: string[]
  trustedProxies: string[]
  grace: number
  demo: boolean
  maxPacketSize: number
  maxControlSize: number
  connectTimeout: Millis
  maxConnections: number
  maxConnectionsPerAddress: number
  connectRate: number
  maxMessageRate: number
  maxByteRate: number
  maxControlRate: number
  maxWillSize: number
  maxTopicLevels: number
  maxTopicLength: number
  maxSubscriptions: number
  maxSubscriptionsPerClient: number
  maxOpenExchanges: number
  maxOpenExchangesTotal: number
  maxHttpConnections: number
  maxHttpConnectionsPerAddress: number
  maxRequestRate: number
  headersTimeout: Millis
  requestTimeout: Millis
  idleTimeout: Millis
  maxHeaderSize: number
  maxHeaders: number
  maxBodySize: number
  maxStreams: number
  maxStreamsPerAddress: number
  maxQueryPoints: number
  maxQueuedQueries: number
  maxUnsentSize: number
  maxQueued: number
  maxQueuedSize: number
  maxQueuedTotal: number
  maxQueuedAge: Millis
  maxSessions: number
  sessionExpiry: Millis
  maxRetained: number
  maxRetainedSize: number
  mappings: Mapping[]
}

interface Setting {
  key: Exclude<keyof Config, 'mappings'>
  value: string
  initial: string
  description: string
  /** The text as a value, or `null` when it is none. */
  read(text: string): Config[Setting['key']] | null
}

const duration = { value: 'DURATION', read: parseDuration }
const port = {
  value: 'PORT',
  read: (text: string) => (/^\d+$/.test(text) && Number(text) < 65536 ? Number(text) : null),
}
const portOrOff = { value: 'PORT|off', read: (text: string) => (text === 'off' ? text : port.read(text)) }
const file = { value: 'FILE', read: (given: string) => given }
const size = { value: 'SIZE', read: parseSize }
const count = { value: 'NUMBER', read: (text: string) => (/^\d{1,9}$/.test(text) ? Number(text) : null) }
const list = { value: 'LIST', read: (given: string) => given.split(',').filter((item) => item !== '') }
const networks = {
  value: 'NETWORKS',
  read(given: string) {
    const items = list.read(given)
    return items.every(isNetwork) ? items : null
  },
}
const levels = { value: 'NUMBER', read: (text: string) => (/^([1-9]\d?|100)$/.test(text) ? Number(text) : null) }
const text = (value: string) => ({ value, read: (given: string) => given || null })
const choice = (...names: string[]) => ({
  value: names.join('|'),
  read: (given: string) => (names.includes(given) ? given : null),
})
const flag = {
  value: '',
  read: (given: string) => (given === 'true' ? true : given === 'false' ? false : null),
}

/** An address, or all of those that begin with the same bits. */
function isNetwork(given: string): boolean {
  const [address = '', bits = '1', ...more] = given.split('/')
  const width = isIP(address) === 4 ? 32 : isIP(address) === 6 ? 128 : 0
  return more.length === 0 && /^[1-9]\d*$/.test(bits) && Number(bits) <= width
}

/** What a client may ask of the hub: it is generous to a fleet, and ends what only an attack or a fault would do. */
export const limits: readonly Setting[] = [
  // Holds a back-fill of 10,000 readings with a handful of values each.
  { key: 'maxPacketSize', ...size, initial: '1MiB', description: 'one MQTT packet, and one WebSocket frame' },
  // Client id, user name, a token as password, and a will.
  {
    key: 'maxControlSize',
    ...size,
    initial: '32KiB',
    description: 'an MQTT packet that carries no message, such as CONNECT',
  },
  // Radio links are slow; a handshake that takes longer fails on its own.
  { key: 'connectTimeout', ...duration, initial: '10s', description: 'until an MQTT connection is let in' },
  // About 20 KB of memory each, and thousands of devices behind one address are a site with one router.
  { key: 'maxConnections', ...count, initial: '50000', description: 'MQTT connections' },
  { key: 'maxConnectionsPerAddress', ...count, initial: '10000', description: 'MQTT connections from one address' },
  // A connection costs about 0.2 ms, so that a reconnect storm leaves more than half of the time for messages.
  {
    key: 'connectRate',
    ...count,
    initial: '2000',
    description: 'MQTT connections that begin in a second; others wait',
  },
  // Off: reads take turns between connections, and a lone gateway may have the whole hub.
  { key: 'maxMessageRate', ...count, initial: '0', description: 'messages a second of an MQTT client; 0: any' },
  // More than the hub can read from one connection with telemetry in it, and less than the memory can carry.
  { key: 'maxByteRate', ...size, initial: '64MiB', description: 'bytes a second of an MQTT client; 0: any' },
  // Keep-alive sends one a minute, and subscribing may do ten seconds' worth at once.
  {
    key: 'maxControlRate',
    ...count,
    initial: '100',
    description: 'PINGREQ, SUBSCRIBE and the like, a second and connection; 0: any',
  },
  // Words such as "offline", or the last readings of a device.
  { key: 'maxWillSize', ...size, initial: '8KiB', description: 'the payload of a will' },
  // Conventions in use take up to ten levels and 200 bytes. More than 100 levels the matcher does not take.
  { key: 'maxTopicLevels', ...levels, initial: '32', description: 'levels of a topic; 100 at most' },
  { key: 'maxTopicLength', ...size, initial: '1KiB', description: 'a topic' },
  // About 1 KB of memory each. Home automation subscribes to each of its entities.
  {
    key: 'maxSubscriptions',
    ...count,
    initial: '200000',
    description: 'subscriptions of all clients, also while they are away',
  },
  { key: 'maxSubscriptionsPerClient', ...count, initial: '10000', description: 'subscriptions of one client' },
  {
    key: 'maxOpenExchanges',
    ...count,
    initial: '1000',
    description: 'QoS 2 messages of a client that wait for PUBREL',
  },
  // About 200 bytes of memory each, and a fleet of 10,000 gateways has fewer.
  { key: 'maxOpenExchangesTotal', ...count, initial: '1000000', description: 'such messages of all clients' },
  { key: 'maxQueued', ...count, initial: '10000', description: 'messages that wait for one client' },
  { key: 'maxQueuedSize', ...size, initial: '16MiB', description: 'all messages that wait for one client' },
  { key: 'maxQueuedTotal', ...size, initial: '256MiB', description: 'all messages that wait for any client' },
  {
    key: 'maxQueuedAge',
    ...duration,
    initial: '7d',
    description: 'how long a message waits for a client; 0: for ever',
  },
  { key: 'maxSessions', ...count, initial: '100000', description: 'clients that are remembered while they are away' },
  {
    key: 'sessionExpiry',
    ...duration,
    initial: '7d',
    description: 'how long a client that is away is remembered; 0: for ever',
  },
  { key: 'maxRetained', ...count, initial: '100000', description: 'retained messages of clients' },
  { key: 'maxRetainedSize', ...size, initial: '64MiB', description: 'all retained messages of clients' },
  // A proxy speaks for many readers with one address.
  { key: 'maxHttpConnections', ...count, initial: '10000', description: 'HTTP connections' },
  { key: 'maxHttpConnectionsPerAddress', ...count, initial: '5000', description: 'HTTP connections from one address' },
  // About what the hub can answer; the flood of one address leaves room for another.
  { key: 'maxRequestRate', ...count, initial: '20000', description: 'HTTP requests a second of one address; 0: any' },
  { key: 'headersTimeout', ...duration, initial: '10s', description: 'until the headers of a request have arrived' },
  // The largest body over a link of 1 Mbit/s.
  { key: 'requestTimeout', ...duration, initial: '60s', description: 'until all of a request has arrived' },
  // Longer than the longest long poll.
  { key: 'idleTimeout', ...duration, initial: '75s', description: 'how long nothing may move on an HTTP connection' },
  { key: 'maxHeaderSize', ...size, initial: '16KiB', description: 'all headers of a request' },
  { key: 'maxHeaders', ...count, initial: '100', description: 'headers of a request' },
  { key: 'maxBodySize', ...size, initial: '4MiB', description: 'the body of a request' },
  // A reader costs little while it waits, and a frame of each commit while readings pour in.
  { key: 'maxStreams', ...count, initial: '2000', description: 'readers that follow, export or wait over HTTP' },
  { key: 'maxStreamsPerAddress', ...count, initial: '500', description: 'such readers of one address' },
  // A reader thread looks at so many in about half a second, and an answer of them is about 200 MB.
  { key: 'maxQueryPoints', ...count, initial: '20000000', description: 'values that one page of history may take' },
  { key: 'maxQueuedQueries', ...count, initial: '200', description: 'questions that wait for their answers' },
  { key: 'maxUnsentSize', ...size, initial: '256MiB', description: 'answers that clients have not taken' },
]

/** All settings: a flag `--mqtt-port`, a variable `HUB_MQTT_PORT`, and `mqttPort` in the file are one setting. */
export const settings: readonly Setting[] = [
  { key: 'host', ...text('ADDRESS'), initial: '127.0.0.1', description: 'address to listen on' },
  { key: 'mqttPort', ...portOrOff, initial: '1883', description: 'port for MQTT; 0: any free one' },
  {
    key: 'mqttTlsPort',
    ...portOrOff,
    initial: '8883',
    description: 'port for MQTT over TLS, when there is a certificate; 0: any free one',
  },
  { key: 'httpPort', ...port, initial: '8080', description: 'port for HTTP and MQTT over WebSocket; 0: any free one' },
  {
    key: 'tlsCert',
    ...file,
    initial: '',
    description:
      'certificate and its chain, in PEM: MQTT over TLS, and HTTPS in place of HTTP; renewed files are taken up',
  },
  { key: 'tlsKey', ...file, initial: '', description: 'private key of the certificate, in PEM' },
  {
    key: 'tlsClientCa',
    ...file,
    initial: '',
    description: 'certificates, in PEM, of who signs the certificates of MQTT clients',
  },
  { key: 'data', ...text('FOLDER'), initial: './data', description: 'folder of the database' },
  {
    key: 'durability',
    ...choice('fsync', 'os'),
    initial: 'fsync',
    description: 'what an acknowledgement survives: fsync a power cut, os a killed process only',
  },
  {
    key: 'logLevel',
    ...choice('debug', 'info', 'warn', 'error', 'silent'),
    initial: 'info',
    description: 'least severity that is logged',
  },
  { key: 'logRetention', ...duration, initial: '7d', description: 'how long the feed can be replayed; history stays' },
  {
    key: 'logMaxSize',
    ...size,
    initial: '1GiB',
    description: 'how large the replayable log may grow; history stays',
  },
  { key: 'historyRetention', ...duration, initial: '0', description: 'how long history is kept; 0: for ever' },
  {
    key: 'earliestTime',
    value: 'TIME',
    read: parseRfc3339,
    initial: new Date(defaultWindow.earliest).toISOString(),
    description: 'earliest time that a reading may have',
  },
  { key: 'maxAhead', ...duration, initial: '24h', description: 'how far in the future a reading may be' },
  {
    key: 'corsOrigins',
    ...list,
    initial: '',
    description: 'web pages that may use the API besides the hub itself, such as https://app.example.com',
  },
  {
    key: 'trustedProxies',
    ...networks,
    initial: '',
    description:
      'proxies in front of the hub, such as 127.0.0.1,10.0.0.0/8: their X-Forwarded-For, -Proto and -Host count',
  },
  {
    key: 'webhookAllow',
    ...list,
    initial: '',
    description: 'private addresses, networks and hosts that webhooks may go to, such as 10.0.0.0/8,localhost',
  },
  { key: 'grace', ...duration, initial: '10s', description: 'time that a stop may take' },
  { key: 'demo', ...flag, initial: 'false', description: 'add simulated devices' },
  ...limits,
]
