import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, copyFile, mkdir, readFile, rename, symlink, writeFile } from 'node:fs/promises'
import type { IncomingHttpHeaders } from 'node:http'
import { Agent, request } from 'node:https'
import { connect as connectPlain, type Socket } from 'node:net'
import { join } from 'node:path'
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls'
import { connectAsync, type IClientOptions } from 'mqtt'
import { generate } from 'mqtt-packet'
import { describe, expect, onTestFinished, test } from 'vitest'
import WebSocket from 'ws'
import { namesOf } from '../broker/handshakes.ts'
import { command } from './access/protected-hub.ts'
import { type Authority, createAuthority, type KeyPair } from './authority.ts'
import {
  type HubProcess,
  mainFile,
  type OnFinished,
  run,
  startHubProcess,
  temporaryFolder,
  testSharing,
  waitFor,
} from './hub-process.ts'

const t0 = 1_700_000_000_000

const flags = ({ cert, key }: KeyPair) => ['--tls-cert', cert, '--tls-key', key]

interface TlsHub extends HubProcess {
  authority: Authority
  ca: Buffer
}

async function startTlsHub(args: string[] = [], onFinished: OnFinished = onTestFinished): Promise<TlsHub> {
  const authority = await createAuthority('Test authority', onFinished)
  const pair = authority.issue('hub', 'IP:127.0.0.1')
  const hub = await startHubProcess({ args: [...flags(pair), ...args] }, onFinished)
  return { ...hub, authority, ca: await readFile(authority.ca) }
}

const tlsTest = testSharing((onFinished) => startTlsHub([], onFinished))

interface Answer {
  status: number
  body: string
  headers: IncomingHttpHeaders
  socket: TLSSocket
}

/** `fetch` of Node cannot be told of an authority. */
function get(
  hub: HubProcess,
  path: string,
  ca: Buffer,
  headers: Record<string, string> = {},
  agent: Agent | false = false,
) {
  return new Promise<Answer>((resolve, reject) => {
    const options = { host: '127.0.0.1', port: hub.httpPort, path, ca, headers, agent }
    request(options, (response) => {
      let body = ''
      const socket = response.socket as TLSSocket
      response.on('data', (chunk) => {
        body += chunk
      })
      response.on('end', () =>
        resolve({ status: response.statusCode as number, body, headers: response.headers, socket }),
      )
    })
      .on('error', reject)
      .end()
  })
}

async function openMqtt(hub: HubProcess, options: IClientOptions) {
  const client = await connectAsync(`mqtts://127.0.0.1:${hub.mqttTlsPort}`, { reconnectPeriod: 0, ...options })
  client.on('error', () => {})
  onTestFinished(() => client.endAsync(true).then(() => {}))
  return client
}

/** Resolves when the handshake is done on this side. */
async function openTls(port: number, options: ConnectionOptions): Promise<TLSSocket> {
  const socket = connect({ host: '127.0.0.1', port, ...options })
  onTestFinished(() => void socket.destroy())
  await once(socket, 'secureConnect')
  socket.on('error', () => {})
  return socket
}

async function stored(hub: HubProcess, device: string, ca: Buffer): Promise<unknown[]> {
  const { body } = await get(hub, `/v1/devices/${device}/telemetry?limit=5000`, ca)
  return (JSON.parse(body) as { readings: { values: { n: unknown } }[] }).readings.map(({ values }) => values.n)
}

const numbers = (count: number) => Array.from({ length: count }, (_, n) => n)

describe('with a certificate', () => {
  tlsTest('telemetry comes in over TLS at every QoS, and over plain MQTT besides', async ({ hub }) => {
    const { ca } = hub
    const plain = await connectAsync(hub.mqtt)
    onTestFinished(() => plain.endAsync(true).then(() => {}))
    const secure = await openMqtt(hub, { ca })
    for (const [name, client] of Object.entries({ plain, secure })) {
      for (const qos of [0, 1, 2] as const) {
        const publish = (n: number) =>
          client.publishAsync(`devices/${name}-${qos}/telemetry`, JSON.stringify({ ts: t0 + n, n }), { qos })
        await Promise.all(numbers(200).map(publish))
        if (qos === 0) await waitFor(async () => (await stored(hub, `${name}-0`, ca)).length === 200)
        expect(await stored(hub, `${name}-${qos}`, ca)).toEqual(numbers(200))
      }
    }
  })

  tlsTest('subscribers hear over TLS, and one that stalls delays nobody', async ({ hub }) => {
    const { ca } = hub
    const dropped = async () =>
      Number((await get(hub, '/metrics', ca)).body.match(/^hub_mqtt_dropped_total (\d+)/m)?.[1])
    const before = await dropped()
    const stalled = await openTls(hub.mqttTlsPort, { ca })
    stalled.write(generate({ cmd: 'connect', clientId: 'stalled', protocolVersion: 4, clean: true, keepalive: 0 }))
    await once(stalled, 'data')
    stalled.write(generate({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '#', qos: 0 }] }))
    await once(stalled, 'data')
    stalled.pause()
    const healthy = await openMqtt(hub, { ca })
    let heard = 0
    healthy.on('message', () => heard++)
    await healthy.subscribeAsync('flood', { qos: 0 })
    const client = await openMqtt(hub, { ca })
    const payload = Buffer.alloc(100_000, 'x')
    for (let n = 0; n < 250; n++) await client.publishAsync('flood', payload, { qos: 1 })
    await waitFor(() => heard === 250)
    expect(await dropped()).toBeGreaterThan(before)
  })

  tlsTest(
    'the HTTP port speaks HTTPS alone: history, MQTT and the feed over wss, pages of its own origin',
    async ({ hub }) => {
      const { ca } = hub
      const address = `127.0.0.1:${hub.httpPort}`
      const client = await connectAsync(`wss://${address}/mqtt`, { ca })
      onTestFinished(() => client.endAsync(true).then(() => {}))
      await client.publishAsync('devices/w/telemetry', `{"ts":${t0},"n":0}`, { qos: 1 })
      expect(await stored(hub, 'w', ca)).toEqual([0])

      const feed = new WebSocket(`wss://${address}/v1/feed?after=earliest`, { ca, origin: `https://${address}` })
      onTestFinished(() => feed.terminate())
      let heard = ''
      feed.on('message', (frame) => {
        heard += frame
      })
      await waitFor(() => heard.includes('"device":"w"'))

      expect((await get(hub, '/v1/latest', ca, { origin: `https://${address}` })).status).toBe(200)
      for (const origin of [`http://${address}`, 'https://127.0.0.1', 'https://example.com']) {
        expect((await get(hub, '/v1/latest', ca, { origin })).status, origin).toBe(403)
      }
      await expect(fetch(`http://${address}/healthz`)).rejects.toThrow()
      // For all ports of a host, so that only who has the usual one may ask for it.
      for (const [host, told] of [
        ['127.0.0.1', 'max-age=31536000'],
        [address, undefined],
      ] as const) {
        expect((await get(hub, '/healthz', ca, { host })).headers['strict-transport-security']).toBe(told)
      }
    },
  )

  test('on a network, a plain MQTT port beside that for TLS is worth a warning', async () => {
    const pair = (await createAuthority()).issue('hub', 'IP:127.0.0.1')
    const folder = await temporaryFolder()
    command(folder, 'token', 'create', '--name', 'admin', '--role', 'admin')
    const hub = await startHubProcess({ folder, args: [...flags(pair), '--host', '0.0.0.0'] })
    expect(hub.output()).toMatch(/"level":40.*--mqtt-port off/)
  })

  tlsTest('below TLS 1.2 nobody comes in', async ({ hub }) => {
    const { ca } = hub
    const old: ConnectionOptions = { ca, minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }
    for (const port of [hub.mqttTlsPort, hub.httpPort]) {
      await expect(openTls(port, old)).rejects.toThrow(/protocol version/)
      const socket = await openTls(port, { ca, maxVersion: 'TLSv1.2' })
      expect(socket.getProtocol()).toBe('TLSv1.2')
    }
  })

  test('plain MQTT can be off: a start says what there is, and those who do not speak TLS are refused or hold up nothing', async () => {
    const hub = await startTlsHub(['--mqtt-port', 'off'])
    const { ca } = hub
    await waitFor(() => hub.output().includes('Try'))
    expect(hub.mqttPort).toBe(0)
    for (const url of [`mqtts://127.0.0.1:${hub.mqttTlsPort}`, `https://127.0.0.1:${hub.httpPort}/docs`, 'wss://']) {
      expect(hub.output()).toContain(url)
    }
    expect(hub.output()).not.toMatch(/mqtt:|http:|ws:/)

    const stranger = connectPlain(hub.mqttTlsPort, '127.0.0.1')
    stranger.on('error', () => {})
    const closed = once(stranger, 'close')
    stranger.write(generate({ cmd: 'connect', clientId: 'plain', protocolVersion: 4, clean: true, keepalive: 0 }))
    await closed
    await waitFor(() => hub.output().includes('no TLS'))

    // Who never ends the handshake does not hold up a stop.
    const silent = connectPlain(hub.mqttTlsPort, '127.0.0.1')
    silent.on('error', () => {})
    onTestFinished(() => void silent.destroy())
    await once(silent, 'connect')
    const client = await openMqtt(hub, { ca })
    await client.publishAsync('devices/s/telemetry', '{"n":1}', { qos: 1 })
    expect(await hub.kill('SIGTERM')).toBe(0)
  })
})

/** A connection on which nothing is said. */
function openSilent(port: number): Socket {
  const socket = connectPlain(port, '127.0.0.1')
  socket.on('error', () => {})
  socket.resume()
  onTestFinished(() => void socket.destroy())
  return socket
}

test('who does not end the handshake has a slot like everybody, for a while, and those who do are counted as without TLS', async () => {
  const limits = ['--max-connections', '3', '--connect-timeout', '1s']
  const hub = await startTlsHub([...limits, '--max-http-connections', '3', '--headers-timeout', '1s'])
  const { ca } = hub
  const figures = async () => (await get(hub, '/metrics', ca)).body
  for (const port of [hub.mqttTlsPort, hub.httpPort]) {
    const order: string[] = []
    const silent = Array.from(
      { length: 4 },
      (_, index) =>
        new Promise<void>((resolve) => {
          openSilent(port).on('close', () => {
            order.push(index < 3 ? 'had a slot' : 'had none')
            resolve()
          })
        }),
    )
    await Promise.all(silent)
    expect(order).toEqual(['had none', 'had a slot', 'had a slot', 'had a slot'])
  }
  for (const [limit, times] of Object.entries({
    maxConnections: 1,
    connectTimeout: 3,
    maxHttpConnections: 1,
    headersTimeout: 3,
  })) {
    expect(await figures()).toContain(`hub_limit_reached_total{limit="${limit}"} ${times}\n`)
  }
  await waitFor(async () => (await figures()).includes('hub_mqtt_sockets 0\n'))

  // MQTT over wss leaves its slot of HTTP.
  for (let index = 0; index < 3; index++) {
    const client = await connectAsync(`wss://127.0.0.1:${hub.httpPort}/mqtt`, { ca })
    onTestFinished(() => client.endAsync(true).then(() => {}))
  }
  expect(await figures()).toContain('hub_http_connections 1\n')
  // Of several streams of one connection none stays behind it.
  const socket = await openTls(hub.httpPort, { ca })
  const stream = 'GET /v1/feed HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n'
  socket.write(stream + stream)
  await waitFor(async () => (await figures()).includes('hub_http_streams 2\n'))
  socket.destroy()
  await waitFor(async () => (await figures()).includes('hub_http_streams 0\n'))
})

const mosquitto = spawnSync('mosquitto_pub', ['--help']).error === undefined
if (!mosquitto && process.env.CI) throw new Error('CI must have mosquitto-clients')

tlsTest.skipIf(!mosquitto)(
  'mosquitto_pub pushes with --cafile (skipped where it is not installed)',
  async ({ hub }) => {
    const { authority, ca } = hub
    for (const qos of ['0', '1', '2']) {
      const message = ['-q', qos, '-t', 'devices/m/telemetry', '-m', `{"ts":${t0 + Number(qos)},"n":${qos}}`]
      const address = ['-h', '127.0.0.1', '-p', String(hub.mqttTlsPort), '--cafile', authority.ca]
      expect(spawnSync('mosquitto_pub', [...address, ...message]).status).toBe(0)
    }
    await waitFor(async () => (await stored(hub, 'm', ca)).length === 3)
  },
)

describe('a renewed certificate', () => {
  /** A hub whose files are reached as certificate managers lay them out: a link to a folder, turned round at once. */
  async function startRenewable() {
    const authority = await createAuthority()
    const folder = await temporaryFolder()
    const place = async (name: string, { cert, key }: KeyPair) => {
      await mkdir(join(folder, name))
      await copyFile(cert, join(folder, name, 'cert.pem'))
      await copyFile(key, join(folder, name, 'key.pem'))
    }
    const turnTo = async (name: string) => {
      await symlink(name, join(folder, 'next'))
      await rename(join(folder, 'next'), join(folder, 'live'))
    }
    await place('first', authority.issue('first', 'IP:127.0.0.1'))
    await turnTo('first')
    const live: KeyPair = { cert: join(folder, 'live', 'cert.pem'), key: join(folder, 'live', 'key.pem') }
    const hub = await startHubProcess({ args: flags(live) })
    const ca = await readFile(authority.ca)
    const shown = async (port: number) => {
      const socket = await openTls(port, { ca })
      const { subject } = socket.getPeerCertificate()
      socket.destroy()
      return subject.CN
    }
    return { hub, ca, authority, live, place, turnTo, shown }
  }

  test('that is broken is an error in the log, and changes nothing; a good one is taken up without a restart: open connections stay, new ones see it', async () => {
    const { hub, ca, authority, live, place, turnTo, shown } = await startRenewable()
    const broken: [() => Promise<void>, RegExp][] = [
      [() => writeFile(live.cert, 'no certificate'), /stays in use: \S*cert\.pem does not hold a certificate/],
      [() => copyFile(authority.issue('other').cert, live.cert), /stays in use: the key \S* is not of the certificate/],
      [() => rename(live.key, `${live.key}.gone`), /stays in use: there is no file \S*key\.pem/],
    ]
    for (const [breakIt, expected] of broken) {
      await breakIt()
      await waitFor(() => expected.test(hub.output()))
      expect(await shown(hub.mqttTlsPort)).toBe('first')
      expect(await shown(hub.httpPort)).toBe('first')
      expect((await get(hub, '/healthz', ca)).status).toBe(200)
    }

    const client = await openMqtt(hub, { ca })
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    onTestFinished(() => agent.destroy())
    const { socket: kept } = await get(hub, '/healthz', ca, {}, agent)
    const heard = { events: '', frames: '' }
    const headers = { accept: 'text/event-stream' }
    const options = { host: '127.0.0.1', port: hub.httpPort, path: '/v1/feed', ca, headers, agent: false as const }
    const events = request(options, (response) => {
      response.on('data', (chunk) => {
        heard.events += chunk
      })
    }).end()
    events.on('error', () => {})
    onTestFinished(() => void events.destroy())
    const feed = new WebSocket(`wss://127.0.0.1:${hub.httpPort}/v1/feed`, { ca })
    onTestFinished(() => feed.terminate())
    feed.on('message', (frame) => {
      heard.frames += frame
    })
    await waitFor(() => heard.events.includes('heartbeat') && heard.frames.includes('hello'))
    expect(await shown(hub.mqttTlsPort)).toBe('first')
    await place('second', authority.issue('second', 'IP:127.0.0.1'))
    await turnTo('second')
    await waitFor(async () => (await shown(hub.mqttTlsPort)) === 'second')
    expect(await shown(hub.httpPort)).toBe('second')
    await client.publishAsync('devices/r/telemetry', `{"ts":${t0},"n":1}`, { qos: 1 })
    expect(client.connected).toBe(true)
    await waitFor(() => heard.events.includes('"device":"r"') && heard.frames.includes('"device":"r"'))
    expect((await get(hub, '/healthz', ca, {}, agent)).socket).toBe(kept)
    expect(kept.getPeerCertificate().subject.CN).toBe('first')
    expect(await stored(hub, 'r', ca)).toEqual([1])
  })
})

describe('client certificates', () => {
  const withCertificate = async ({ cert, key }: KeyPair) => ({ cert: await readFile(cert), key: await readFile(key) })

  /** What the hub logs of a connection that it ends for a bad packet: there it says who that was. */
  async function seenAs(hub: HubProcess, options: ConnectionOptions, clientId: string): Promise<unknown> {
    const socket = await openTls(hub.mqttTlsPort, options)
    socket.write(generate({ cmd: 'connect', clientId, protocolVersion: 4, clean: true, keepalive: 0 }))
    await once(socket, 'data')
    socket.write(Buffer.from([0x36, 0x00]))
    const line = await waitFor(() =>
      hub
        .output()
        .split('\n')
        .find((candidate) => candidate.includes(`"client":"${clientId}"`)),
    )
    return JSON.parse(line)
  }

  test('that verify give the connection its names; those of others, signed by itself, or of an authority that was taken away are refused', async () => {
    const clients = await createAuthority('Clients')
    const hub = await startTlsHub(['--tls-client-ca', clients.ca])
    const { ca } = hub
    const pump = await withCertificate(clients.issue('pump-1', 'DNS:pump-1.example', 'URI:urn:device:pump-1'))
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      const seen = await seenAs(hub, { ca, ...pump, maxVersion }, `pump over ${maxVersion}`)
      expect(seen).toMatchObject({
        address: '127.0.0.1',
        names: ['pump-1', 'pump-1.example', 'urn:device:pump-1'],
        secure: true,
      })
    }
    expect(await seenAs(hub, { ca }, 'nameless')).toMatchObject({ address: '127.0.0.1', names: [], secure: true })

    const others = await createAuthority('Clients')
    const refused = async (options: ConnectionOptions) => {
      const socket = connect({ host: '127.0.0.1', port: hub.mqttTlsPort, ca, ...options })
      onTestFinished(() => void socket.destroy())
      socket.on('error', () => {})
      socket.resume()
      socket.write(generate({ cmd: 'connect', clientId: 'refused', protocolVersion: 4, clean: true, keepalive: 0 }))
      await once(socket, 'close')
      return socket.bytesRead
    }
    const good = await withCertificate(clients.issue('pump-1'))
    expect(await refused(await withCertificate(others.issue('pump-1')))).toBe(0)
    const self = { cert: others.ca, key: others.ca.replace(/pem$/, 'key') }
    expect(await refused(await withCertificate(self))).toBe(0)
    expect(hub.output()).toMatch(/its certificate is not good/)

    const client = await openMqtt(hub, { ca, ...good })
    const { session } = await openSession(hub, { ca, ...good })
    await copyFile(others.ca, clients.ca)
    await waitFor(() => hub.output().includes('new connections get the certificate'))
    // Neither by a new handshake nor by going on with a session of before.
    expect(await refused(good)).toBe(0)
    expect(await refused({ ...good, session })).toBe(0)
    await client.publishAsync('devices/c/telemetry', '{"n":1}', { qos: 1 })
  })

  /** What a client keeps for going on with a session: in TLS 1.3 it comes after the handshake. */
  async function openSession(hub: HubProcess, options: ConnectionOptions): Promise<{ session: Buffer }> {
    const socket = connect({ host: '127.0.0.1', port: hub.mqttTlsPort, ...options })
    onTestFinished(() => void socket.destroy())
    const [session] = (await once(socket, 'session')) as [Buffer]
    return { session }
  }

  test('a name that holds a comma stays one name', () => {
    const subject = { CN: ['one', 'two'] } as unknown as Parameters<typeof namesOf>[0]['subject']
    const subjectaltname = 'DNS:"a, DNS:b", IP Address:127.0.0.1, URI:urn:c, DNS:d, email:e@f'
    expect(namesOf({ subject, subjectaltname })).toEqual(['one', 'two', 'a, DNS:b', 'urn:c', 'd'])
  })
})

describe('a start', () => {
  const refusals: [string, (pair: KeyPair, folder: string) => Promise<string[]>, RegExp][] = [
    ['with a certificate and no key', async ({ cert }) => ['--tls-cert', cert], /needs both --tls-cert and --tls-key/],
    ['with a key and no certificate', async ({ key }) => ['--tls-key', key], /needs both --tls-cert and --tls-key/],
    [
      'with an authority of clients and no certificate',
      async ({ cert }) => ['--tls-client-ca', cert],
      /--tls-client-ca needs a certificate of the hub/,
    ],
    [
      'with a file that is not there',
      async ({ cert }) => flags({ cert, key: `${cert}.no` }),
      /there is no file \S+\.no: correct --tls-key/,
    ],
    [
      'with a folder for a file',
      async ({ key }, folder) => flags({ cert: folder, key }),
      /cannot read \S+ \(.*\): .*--tls-cert/,
    ],
    [
      'with a file that is no certificate',
      async ({ key }) => flags({ cert: key, key }),
      /does not hold a certificate in PEM.*--tls-cert/,
    ],
    [
      'with a file that is no key',
      async ({ cert }) => flags({ cert, key: cert }),
      /does not hold a private key without a password in PEM.*--tls-key/,
    ],
    [
      'with the key of another certificate',
      async ({ cert }) => flags({ cert, key: (await createAuthority()).issue('other').key }),
      /the key \S+ is not of the certificate \S+: give the two/,
    ],
    [
      'with an authority of clients that is none',
      async (pair) => [...flags(pair), '--tls-client-ca', pair.key],
      /does not hold a certificate in PEM.*--tls-client-ca/,
    ],
  ]
  for (const [name, prepare, expected] of refusals) {
    tlsTest(`${name} is one line with what to do, and exit code 1`, async ({ hub }) => {
      const folder = await temporaryFolder()
      const pair = hub.authority.issue('refused', 'IP:127.0.0.1')
      const ports = ['--mqtt-port', '0', '--mqtt-tls-port', '0', '--http-port', '0']
      const { code, stderr } = await run(mainFile, ['--data', folder, ...ports, ...(await prepare(pair, folder))])
      expect(stderr).toMatch(/^telemetry-hub: .*\n$/)
      expect(stderr).toMatch(expected)
      expect(code).toBe(1)
    })
  }

  const isRoot = process.getuid?.() === 0
  const mayRenounce = !isRoot || spawnSync('setpriv', ['--version']).error === undefined
  if (!mayRenounce && process.env.CI) throw new Error('CI must have setpriv')

  test.skipIf(!mayRenounce)(
    'with a key that it may not read is one line with what to do (skipped for root without setpriv, who may read all)',
    async () => {
      const pair = (await createAuthority()).issue('hub', 'IP:127.0.0.1')
      await chmod(pair.key, 0)
      const hub = [process.execPath, mainFile, '--data', await temporaryFolder(), ...flags(pair)]
      const ofRoot = ['setpriv', '--bounding-set', '-dac_override,-dac_read_search']
      const [program = '', ...args] = isRoot ? [...ofRoot, ...hub] : hub
      const { status, stderr } = spawnSync(program, args, { encoding: 'utf8' })
      expect(stderr).toMatch(/^telemetry-hub: cannot read .*--tls-key\n$/)
      expect(status).toBe(1)
    },
  )
})
