import { once } from 'node:events'
import { connect as connectSocket } from 'node:net'
import { connect, type IClientOptions, type MqttClient } from 'mqtt'
import { generate } from 'mqtt-packet'
import { expect, onTestFinished, test } from 'vitest'
import { command, startProtectedHub } from '../access/protected-hub.ts'
import { type HubProcess, readFigures, startHubProcess, waitFor } from '../hub-process.ts'

async function open(hub: HubProcess, options: IClientOptions = {}) {
  const client: MqttClient = connect(hub.mqtt, { reconnectPeriod: 0, ...options })
  onTestFinished(() => client.endAsync(true).then(() => {}))
  const heard: string[] = []
  client.on('message', (_topic, payload) => heard.push(payload.toString()))
  await new Promise((resolve, reject) => client.once('connect', resolve).once('error', reject))
  client.on('error', () => {})
  return { client, heard }
}

const will = (topic: string, payload: string) => ({
  will: { topic, payload: Buffer.from(payload), qos: 1 as const, retain: false },
})

test('the wills that a crash leaves are published with the rights that their owners have then, and no others', async () => {
  const hub = await startProtectedHub()
  const login = async (username: string) => ({ username, password: await hub.command('device', 'create', username) })
  const [kitchen, hall] = [await login('kitchen'), await login('hall')]
  await open(hub, { ...kitchen, clientId: 'forged', ...will('v1/gateway/telemetry', '{"victim":[{"t":1}]}') })
  await open(hub, { ...kitchen, clientId: 'honest', ...will('v1/devices/me/telemetry', '{"t":2}') })
  await open(hub, { ...hall, clientId: 'revoked', ...will('devices/hall/telemetry', '{"t":3}') })
  // What is acknowledged now is in a commit after them.
  const { client } = await open(hub, kitchen)
  await client.publishAsync('devices/kitchen/telemetry', '{"before":1}', { qos: 1 })
  await hub.kill('SIGKILL')
  command(hub.folder, 'device', 'revoke', 'hall')
  const again = { ...hub, ...(await startHubProcess({ folder: hub.folder })) }
  const ask = async <T>(path: string) =>
    (await (await fetch(again.http + path, { headers: { authorization: `Bearer ${hub.admin}` } })).json()) as T
  await waitFor(async () => {
    const latest = await ask<{ values?: object }>('/v1/devices/kitchen/telemetry/latest')
    return 't' in (latest.values ?? {})
  })
  const entries = await waitFor(async () => {
    const { entries } = await ask<{ entries: { reason: string }[] }>('/v1/quarantine')
    return entries.length > 0 && entries
  })
  expect(entries.map(({ reason }) => reason)).toEqual([expect.stringContaining('may not speak for')])
  expect((await ask<{ devices: { device: string }[] }>('/v1/devices')).devices.map(({ device }) => device)).toEqual([
    'kitchen',
  ])
  const metrics = await (
    await fetch(`${again.http}/metrics`, { headers: { authorization: `Bearer ${hub.admin}` } })
  ).text()
  expect(metrics).toContain('hub_mqtt_wills_disowned_total 1\n')
})

test('a connection that takes over keeps its own will, also on disk', async () => {
  const hub = await startHubProcess()
  const listener = await open(hub, { clientId: 'listener', clean: false })
  await listener.client.subscribeAsync('wills', { qos: 1 })
  await open(hub, { clientId: 'same', ...will('wills', 'first') })
  await open(hub, { clientId: 'same', ...will('wills', 'second') })
  await waitFor(() => listener.heard.includes('first'))
  await waitFor(async () => (await readFigures(hub)).hub_mqtt_wills === 1)
  const peaceful = await open(hub, { clientId: 'peaceful', ...will('wills', 'never') })
  await peaceful.client.endAsync()
  await listener.client.publishAsync('devices/d/telemetry', '{"t":1}', { qos: 1 })
  await listener.client.endAsync()
  await hub.kill('SIGKILL')
  const again = await startHubProcess({ folder: hub.folder })
  const { heard } = await open(again, { clientId: 'listener', clean: false })
  await waitFor(() => heard.includes('second'))
  expect(heard).toEqual(['second'])
})

test('a will that could not be published is refused with its CONNECT, and so is one that is too large', async () => {
  const hub = await startHubProcess({ args: ['--max-will-size', '100B'] })
  const answer = async (topic: string, payload: string, change = (bytes: Buffer) => bytes) => {
    const options = { clientId: 'c', protocolVersion: 4, clean: true, keepalive: 0 } as const
    const bytes = generate({ cmd: 'connect', ...options, will: { topic, payload, qos: 2, retain: false } as never })
    const socket = connectSocket(hub.mqttPort, '127.0.0.1')
    onTestFinished(() => void socket.destroy())
    socket.write(change(bytes))
    const [connack] = (await once(socket, 'data')) as [Buffer]
    return connack[3]
  }
  expect(await answer('a/b', 'x'.repeat(100))).toBe(0)
  expect(await answer('a/+', 'x')).toBe(2)
  expect(await answer('a\u0000b', 'x')).toBe(2)
  expect(await answer('$SYS/x', 'x')).toBe(2)
  const bothQosBits = (bytes: Buffer) => {
    bytes[9] = (bytes[9] as number) | 0x18
    return bytes
  }
  expect(await answer('a/b', 'x', bothQosBits)).toBe(2)
  expect(await answer('a/b', 'x'.repeat(101))).toBe(5)
  expect((await readFigures(hub))['hub_limit_reached_total{limit="maxWillSize"}']).toBe(1)
})
