import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { startHubProcess, waitFor } from '../hub-process.ts'
import { startContractServer } from './contract-server.ts'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const readme = readFileSync(`${root}/src/client/README.md`, 'utf8')
const [feedExample, consumerExample] = [...readme.matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code as string)

/** As a program of a user: it imports the package by its name. */
function runExample(example: string | undefined, url: string): { child: ChildProcess; output(): string } {
  const code = (example as string).replace('http://127.0.0.1:8080', url)
  const child = spawn(process.execPath, ['--input-type=module', '--eval', code], { cwd: root })
  onTestFinished(() => void child.kill('SIGKILL'))
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk
    })
  }
  return { child, output: () => output }
}

test('the example of the feed works as it stands', async () => {
  const hub = await startHubProcess()
  const { child, output } = runExample(feedExample, hub.http)
  const [code] = await once(child, 'close')
  expect(code, output()).toBe(0)
  expect(output()).toMatch(/^pushed.*\nkitchen \d{4}-.* \{ temperature: 21.5 \}\n$/)
})

test('the example of a consumer works as it stands, and ends when it is told to', async () => {
  const server = await startContractServer(20, 30_000)
  const { child, output } = runExample(consumerExample, server.url)
  await waitFor(() => server.all('acknowledged'))
  child.kill('SIGINT')
  const [code] = await once(child, 'close')
  expect(code, output()).toBe(0)
  expect(output().trim().split('\n')).toHaveLength(20)
})

test('the package brings the types of the client', () => {
  const { exports } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'))
  for (const file of Object.values(exports['./client'])) expect(existsSync(`${root}/${file}`), String(file)).toBe(true)
})
