import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { problems } from '../src/errors.ts'
import { startHubProcess } from './hub-process.ts'

const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')
const mosquitto = spawnSync('mosquitto_pub', ['--help']).error === undefined
const timedOut = 28

test('every example of the README works as it stands (those with mosquitto_pub only where it is installed)', async () => {
  const hub = await startHubProcess()
  const examples = [...readme.matchAll(/^(curl|mosquitto_pub) .*$/gm)].map(([line]) => line)
  expect(examples.length).toBeGreaterThan(6)
  for (const example of examples) {
    if (example.startsWith('mosquitto_pub') && !mosquitto) continue
    const command = example
      .replaceAll('http://127.0.0.1:8080', hub.http)
      .replace(/^mosquitto_pub/, `mosquitto_pub -p ${hub.mqttPort}`)
      .replace(/^curl/, 'curl --silent --show-error --fail --max-time 2')
    const { status, stdout, stderr } = spawnSync('bash', ['-c', command], { encoding: 'utf8' })
    // A stream does not end by itself; what counts is that it brought something.
    if (example.includes('curl -N')) expect(status).toBe(timedOut)
    else expect(status, `${example}\n${stderr}`).toBe(0)
    if (example.startsWith('curl')) expect(stdout, example).not.toBe('')
  }
})

test('the API pages list every error that a client can meet', async () => {
  const hub = await startHubProcess()
  const { info } = await hub.get<{ info: { description: string } }>('/openapi.json')
  for (const [code, { status, title }] of Object.entries(problems)) {
    expect(info.description).toContain(`| ${status} | \`urn:telemetry-hub:problem:${code}\` | ${title} |`)
  }
})
