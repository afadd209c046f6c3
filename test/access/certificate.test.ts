import { readFile } from 'node:fs/promises'
import { connect } from 'mqtt'
import { expect, onTestFinished, test } from 'vitest'
import { createAuthority, type KeyPair } from '../authority.ts'
import { startHubProcess, temporaryFolder, waitFor } from '../hub-process.ts'
import { command } from './protected-hub.ts'

test('a client certificate lets its device in, as what it is, until the device is revoked', async () => {
  const folder = await temporaryFolder()
  const authority = await createAuthority()
  const own = authority.issue('hub', 'IP:127.0.0.1')
  command(folder, 'device', 'create', 'pump-1', '--certificate')
  const args = ['--tls-cert', own.cert, '--tls-key', own.key, '--tls-client-ca', authority.ca]
  const hub = await startHubProcess({ folder, args })
  const ca = await readFile(authority.ca)

  async function open(pair: KeyPair | null, username?: string, password?: string) {
    const files = pair ? { cert: await readFile(pair.cert), key: await readFile(pair.key) } : {}
    const client = connect(`mqtts://127.0.0.1:${hub.mqttTlsPort}`, {
      ca,
      reconnectPeriod: 0,
      ...(username ? { username } : {}),
      ...(password ? { password } : {}),
      ...files,
    })
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

  const byName = authority.issue('pump-1')
  const byAlternative = authority.issue('anything', 'DNS:pump-1')
  const pump = await open(byName)
  expect(pump.code).toBe(0)
  await pump.client.publishAsync('v1/devices/me/telemetry', '{"t":1}', { qos: 1 })
  await pump.client.publishAsync('devices/pump-1/telemetry', '{"t":1}', { qos: 1 })
  const other = await open(byAlternative)
  expect(other.code).toBe(0)
  other.client.publish('devices/pump-2/telemetry', '{"t":1}', { qos: 1 })
  await waitFor(other.isClosed)

  expect((await open(authority.issue('pump-2'))).code).toBe(4)
  expect((await open(null, 'pump-1')).code).toBe(4)
  command(folder, 'device', 'revoke', 'pump-1')
  await waitFor(pump.isClosed)
  expect((await open(byName)).code).toBe(4)
  // Made anew with a secret, because the key was stolen: the certificate opens it no more.
  const secret = command(folder, 'device', 'create', 'pump-1')
  await waitFor(async () => (await open(null, 'pump-1', secret)).code === 0)
  expect((await open(byName)).code).toBe(4)
})
