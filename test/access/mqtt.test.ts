import { readFileSync } from 'node:fs'
import { connect as connectSocket } from 'node:net'
import { connect, type IClientOptions, type MqttClient } from 'mqtt'
import { generate } from 'mqtt-packet'
import { describe, expect, onTestFinished, test } from 'vitest'
import { startHubProcess, waitFor } from '../hub-process.ts'
import { command, type ProtectedHub, protectedTest, startProtectedHub } from './protected-hub.ts'

/** A client, and how its connection ended; the CONNACK code when it was refused. */
async function open(hub: ProtectedHub, options: IClientOptions, url = hub.mqtt) {
  const client: MqttClient = connect(url, { reconnectPeriod: 0, ...options })
  onTestFinished(() => client.endAsync(true).then(() => {}))
  let closed = false
  client.on('close', () => {
    closed = true
  })
  const code = await new Promise<number>((resolve) => {
    client.once('connect', () => resolve(0))
    client.once('error', (error) => resolve((error as { code?: number }).code ?? -1))
  })
  client.on('error', () => {})
  return { client, code, isClosed: () => closed }
}

const telemetry = (device: string) => `devices/${device}/telemetry`

async function devicesOf(hub: ProtectedHub, pattern = '*'): Promise<string[]> {
  const { devices } = (await (await hub.as(hub.admin, `/v1/devices?devices=${pattern}`)).json()) as {
    devices: { device: string }[]
  }
  return devices.map(({ device }) => device)
}

/** Publishes, and tells whether that was acknowledged or ended the connection. */
async function publishes(
  { client, isClosed }: Awaited<ReturnType<typeof open>>,
  topic: string,
  payload = '{"t":1}',
): Promise<boolean> {
  let acknowledged = false
  client.publish(topic, payload, { qos: 1 }, (error) => {
    acknowledged = !error
  })
  await waitFor(() => acknowledged || isClosed())
  return acknowledged
}

describe('a device', () => {
  protectedTest(
    'comes in with its password, its secret as password or as user name, or a password of its own',
    async ({ hub }) => {
      const secret = await hub.command('device', 'create', 'in-kitchen')
      await hub.commandWith('correct horse battery\n', 'device', 'create', 'in-hall', '--password-stdin')
      const ways: [IClientOptions, string][] = [
        [{ username: 'in-kitchen', password: secret }, 'in-kitchen'],
        // As ThingsBoard's devices do.
        [{ username: secret }, 'in-kitchen'],
        [{ username: 'in-hall', password: 'correct horse battery' }, 'in-hall'],
      ]
      for (const [options, device] of ways) {
        for (const url of [hub.mqtt, `ws://127.0.0.1:${hub.httpPort}/mqtt`]) {
          const connection = await open(hub, options, url)
          expect(connection.code).toBe(0)
          expect(await publishes(connection, 'v1/devices/me/telemetry')).toBe(true)
          expect(await publishes(connection, telemetry(device))).toBe(true)
        }
      }
      expect(await devicesOf(hub, 'in-*')).toEqual(['in-hall', 'in-kitchen'])
    },
  )

  protectedTest(
    'that is unknown, or shows what is wrong, is refused with code 4, and with 3 when it guesses on',
    async ({ hub }) => {
      const password = 'correct horse battery'
      await hub.create({ kind: 'device', name: 'guessed-hall', password })
      const secret = await hub.create({ kind: 'device', name: 'guessed-kitchen' })
      // Clients that hang up have not guessed: they are not looked at, and nobody is slowed by them.
      for (let n = 0; n < 5; n++) {
        const guess = {
          cmd: 'connect',
          protocolVersion: 4,
          clean: true,
          keepalive: 0,
          username: 'guessed-hall',
        } as const
        const socket = connectSocket(hub.mqttPort, '127.0.0.1')
        socket.on('error', () => {})
        socket.end(generate({ ...guess, clientId: `guess-${n}`, password: Buffer.from(`wrong ${n}`) }))
      }
      expect((await open(hub, { username: 'guessed-hall', password })).code).toBe(0)
      expect((await open(hub, {})).code).toBe(4)
      expect((await open(hub, { username: 'guessed-kitchen' })).code).toBe(4)
      expect((await open(hub, { username: 'nobody', password: 'x' })).code).toBe(4)
      expect((await open(hub, { username: 'guessed-kitchen', password: secret })).code).toBe(0)
      await waitFor(async () => (await open(hub, { username: 'guessed-kitchen', password: 'wrong' })).code === 3)
      // Who was let in before is not locked out by somebody else.
      expect((await open(hub, { username: 'guessed-kitchen', password: secret })).code).toBe(0)
    },
  )

  protectedTest(
    'publishes and subscribes to its own topics; other filters are answered 0x80, other topics end it',
    async ({ hub }) => {
      const password = await hub.create({ kind: 'device', name: 'own-kitchen' })
      const options = { username: 'own-kitchen', password }
      const connection = await open(hub, options)
      expect(await publishes(connection, 'devices/own-kitchen/telemetry/t', '1')).toBe(true)
      const filters = [
        'devices/own-kitchen/#',
        'devices/own-kitchen/status',
        'v1/devices/me/#',
        'devices/own-hall/#',
        'devices/+/status',
        '#',
      ]
      const granted = await new Promise<number[]>((resolve) =>
        connection.client.subscribe(filters, { qos: 1 }, (_error, _granted, packet) => {
          resolve((packet?.granted ?? []) as number[])
        }),
      )
      expect(granted).toEqual([1, 1, 1, 128, 128, 128])
      for (const topic of [
        telemetry('own-hall'),
        'devices/own-hall/anything',
        'elsewhere',
        telemetry('own-kitchen2'),
      ]) {
        expect(await publishes(await open(hub, options), topic), topic).toBe(false)
      }
      expect(await devicesOf(hub, 'own-*')).toEqual(['own-kitchen'])
      expect(hub.output()).toContain('not allowed to publish to elsewhere')
    },
  )

  protectedTest('is not listened to when it speaks for others without waiting for an answer', async ({ hub }) => {
    const password = await hub.create({ kind: 'device', name: 'fast-kitchen' })
    const connection = await open(hub, { username: 'fast-kitchen', password })
    for (let n = 0; n < 50; n++) connection.client.publish(telemetry('fast-kitchen'), `{"n":${n}}`, { qos: 0 })
    for (let n = 0; n < 50; n++) connection.client.publish(telemetry('fast-hall'), `{"n":${n}}`, { qos: 0 })
    await waitFor(connection.isClosed)
    expect(await devicesOf(hub, 'fast-*')).toEqual(['fast-kitchen'])
  })

  protectedTest(
    'that is a gateway speaks for the devices of its patterns, on native topics and in payloads that name them',
    async ({ hub }) => {
      const password = await hub.create({
        kind: 'device',
        name: 'gateway',
        devices: ['gateway', 'sensor-*'],
        publish: ['bridge/{device}/log'],
      })
      const connection = await open(hub, { username: 'gateway', password })
      expect(await publishes(connection, telemetry('sensor-1'))).toBe(true)
      expect(await publishes(connection, 'bridge/sensor-1/log', 'text')).toBe(true)
      expect(await publishes(connection, 'v1/gateway/telemetry', '{"sensor-2":[{"t":1}]}')).toBe(true)
      expect(await publishes(connection, 'v1/gateway/telemetry', '{"sensor-3":[{"t":1}],"sense-hall":[{"t":1}]}')).toBe(
        true,
      )
      expect(await devicesOf(hub, 'sens*')).toEqual(['sensor-1', 'sensor-2'])
      const { entries } = (await (await hub.as(hub.admin, '/v1/quarantine')).json()) as {
        entries: { reason: string }[]
      }
      expect(entries[0]?.reason).toContain('may not speak for')
      expect(await publishes(connection, 'bridge/sense-hall/log', 'text')).toBe(false)
    },
  )

  protectedTest('leaves no will where it may not publish', async ({ hub }) => {
    const password = await hub.create({ kind: 'device', name: 'will-kitchen' })
    const will = (topic: string) => ({
      username: 'will-kitchen',
      password,
      will: { topic, payload: Buffer.from('x'), qos: 1 as const, retain: false },
    })
    expect((await open(hub, will('devices/hall/gone'))).code).toBe(5)
    expect((await open(hub, will('devices/will-kitchen/gone'))).code).toBe(0)
  })

  protectedTest('cannot take a client id that somebody else uses', async ({ hub }) => {
    const kitchen = { username: 'id-kitchen', password: await hub.create({ kind: 'device', name: 'id-kitchen' }) }
    const hall = { username: 'id-hall', password: await hub.create({ kind: 'device', name: 'id-hall' }) }
    const first = await open(hub, { ...kitchen, clientId: 'one' })
    expect((await open(hub, { ...hall, clientId: 'one' })).code).toBe(2)
    expect(first.isClosed()).toBe(false)
    // Its owner takes it over. [MQTT-3.1.4-2]
    expect((await open(hub, { ...kitchen, clientId: 'one' })).code).toBe(0)
    await waitFor(first.isClosed)
  })

  protectedTest(
    'whose credential is revoked is disconnected at once, leaves no will and is not let in again',
    async ({ hub }) => {
      const service = await open(hub, {
        username: await hub.create({ kind: 'token', name: 'revoking', roles: ['write'] }),
      })
      const options = {
        username: 'revoked-kitchen',
        password: await hub.create({ kind: 'device', name: 'revoked-kitchen' }),
      }
      const payload = Buffer.from('{"will":1}')
      const will = { topic: 'v1/devices/me/telemetry', payload, qos: 1 as const, retain: false }
      const connection = await open(hub, { ...options, will })
      expect(await publishes(connection, telemetry('revoked-kitchen'))).toBe(true)
      await hub.command('device', 'revoke', 'revoked-kitchen')
      await waitFor(connection.isClosed)
      expect((await open(hub, options)).code).toBe(4)
      // What is stored after it is stored later.
      expect(await publishes(service, telemetry('revoked-hall'))).toBe(true)
      expect(await (await hub.as(hub.admin, '/v1/devices/revoked-kitchen')).json()).toMatchObject({ metrics: ['t'] })
    },
  )
})

describe('a token over MQTT', () => {
  protectedTest('publishes with write, subscribes with read, for its devices', async ({ hub }) => {
    const writer = await hub.command('token', 'create', '--name', 'w', '--role', 'write', '--devices', 'kit*')
    const reader = await hub.create({ kind: 'token', name: 'r', roles: ['read'], devices: ['kit*'] })
    const listening = await open(hub, { username: reader })
    const granted = await new Promise<number[]>((resolve) =>
      listening.client.subscribe(['devices/kitchen/telemetry', 'devices/+/telemetry'], (_e, _g, packet) =>
        resolve((packet?.granted ?? []) as number[]),
      ),
    )
    expect(granted).toEqual([0, 128])
    const heard: string[] = []
    listening.client.on('message', (topic) => heard.push(topic))
    const writing = await open(hub, { username: 'service', password: writer })
    expect(await publishes(writing, telemetry('kitchen'))).toBe(true)
    await waitFor(() => heard.includes(telemetry('kitchen')))
    expect(await publishes(writing, telemetry('hall'))).toBe(false)
    expect(await publishes(listening, telemetry('kitchen'))).toBe(false)
  })

  protectedTest('with all devices and both roles is a client like that of any broker', async ({ hub }) => {
    const secret = await hub.create({ kind: 'token', name: 's', roles: ['read', 'write'] })
    const { client } = await open(hub, { username: secret })
    const before = await devicesOf(hub)
    const heard: string[] = []
    client.on('message', (topic) => heard.push(topic))
    // What the broker says of its clients is for administrators.
    const admin = await open(hub, { username: hub.admin })
    for (const [one, granted] of [
      [client, 128],
      [admin.client, 0],
    ] as const) {
      const answer = new Promise((resolve) => one.subscribe('$SYS/#', (_error, _granted, packet) => resolve(packet)))
      expect(await answer).toMatchObject({ granted: [granted] })
    }
    await client.subscribeAsync('#')
    await client.publishAsync('any/topic', 'x', { qos: 1 })
    await waitFor(() => heard.includes('any/topic'))
    // Its secret stays one, also where the user name tells the device.
    await client.publishAsync('v1/devices/me/telemetry', '{"t":1}', { qos: 1 })
    const own = client.options.clientId as string
    await waitFor(() => heard.includes(`devices/${own}/status`))
    expect((await devicesOf(hub)).filter((device) => !before.includes(device))).toEqual([own])
    expect(heard.join()).not.toContain(secret)
  })
})

test('a connection of before the first credential ends with it', async () => {
  const hub = (await startHubProcess()) as ProtectedHub
  const { isClosed } = await open(hub, {})
  command(hub.folder, 'token', 'create', '--name', 'admin', '--role', 'admin')
  await waitFor(isClosed)
  expect((await open(hub, {})).code).toBe(4)
})

test('the simulator and the demo work with a hub that has credentials', async () => {
  const hub = await startProtectedHub({ args: ['--demo'] })
  const seen = await waitFor(async () => {
    const devices = await devicesOf(hub)
    return devices.length === 12 && devices
  })
  expect(seen.every((device) => device.startsWith('demo-'))).toBe(true)
  // The token of its devices is in no list of processes.
  const [child] = readFileSync(`/proc/${hub.pid}/task/${hub.pid}/children`, 'utf8').split(' ')
  const shown = readFileSync(`/proc/${child}/cmdline`, 'utf8').replaceAll('\0', ' ')
  expect(shown).toContain('--device-prefix demo-')
  expect(shown).not.toContain('hub_')
})

describe('a session that is remembered', () => {
  test('keeps no filter that was refused, and its owner, also across a restart', async () => {
    const hub = await startProtectedHub()
    const kitchen = {
      username: 'kitchen',
      password: await hub.create({ kind: 'device', name: 'kitchen' }),
      clean: false,
    }
    const hall = { username: 'hall', password: await hub.create({ kind: 'device', name: 'hall' }), clean: false }
    const service = { username: await hub.create({ kind: 'token', name: 's', roles: ['read', 'write'] }) }
    const first = await open(hub, { ...kitchen, clientId: 'one' })
    await new Promise((resolve) => first.client.subscribe(['devices/kitchen/x', 'devices/hall/x'], { qos: 1 }, resolve))
    await first.client.endAsync()
    expect((await open(hub, { ...hall, clientId: 'one' })).code).toBe(2)
    expect((await open(hub, { ...hall, clientId: 'one', clean: true })).code).toBe(2)
    const sender = await open(hub, service)
    for (const device of ['hall', 'kitchen']) {
      await sender.client.publishAsync(`devices/${device}/x`, 'text', { qos: 1 })
    }
    await hub.kill('SIGKILL')
    const again = { ...hub, ...(await startHubProcess({ folder: hub.folder })) }
    expect((await open(again, { ...hall, clientId: 'one' })).code).toBe(2)
    const client = connect(again.mqtt, { ...kitchen, clientId: 'one', reconnectPeriod: 0 })
    onTestFinished(() => client.endAsync(true).then(() => {}))
    const topics: string[] = []
    client.on('message', (topic) => topics.push(topic))
    await waitFor(() => topics.includes('devices/kitchen/x'))
    expect(topics).toEqual(['devices/kitchen/x'])
  })
})

protectedTest('what waited for a client that may no longer hear it is not delivered', async ({ hub }) => {
  const create = (...subscribe: string[]) => hub.create({ kind: 'device', name: 'waiting-kitchen', subscribe })
  const session = { username: 'waiting-kitchen', clientId: 'waiting', clean: false }
  const first = await open(hub, { ...session, password: await create('news/#') })
  await first.client.subscribeAsync(['news/#', 'devices/waiting-kitchen/x'], { qos: 1 })
  await first.client.endAsync()
  const service = await open(hub, { username: await hub.create({ kind: 'token', name: 'news', roles: ['write'] }) })
  await hub.command('device', 'revoke', 'waiting-kitchen')
  for (const topic of ['news/a', 'devices/waiting-kitchen/x'])
    await service.client.publishAsync(topic, 'text', { qos: 1 })
  const client = connect(hub.mqtt, { ...session, password: await create(), reconnectPeriod: 0 })
  onTestFinished(() => client.endAsync(true).then(() => {}))
  const topics: string[] = []
  client.on('message', (topic) => topics.push(topic))
  await waitFor(() => topics.includes('devices/waiting-kitchen/x'))
  expect(topics).toEqual(['devices/waiting-kitchen/x'])
})
