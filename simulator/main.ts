#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { Failure } from './failure.ts'
import { helpText, parseOptions } from './options.ts'
import { summaryText } from './report.ts'
import { simulate } from './simulation.ts'

const terminalEveryMillis = 1000
const logEveryMillis = 10_000
const { stdout, stderr } = process

// A reader that has seen enough (`| head`) is no reason to complain.
stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
})

async function run(): Promise<number> {
  const options = parseOptions(process.argv.slice(2), process.env)
  if (options.help) {
    stdout.write(helpText())
    return 0
  }
  if (options.version) {
    stdout.write(`${version()}\n`)
    return 0
  }
  const interruption = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (interruption.signal.aborted) process.exit(130)
      interruption.abort()
    })
  }
  // Who was started by another program, with a channel to it, ends with it.
  process.on('disconnect', () => process.exit())
  const summary = await simulate(options, {
    interrupted: interruption.signal,
    progress: (line) => stderr.write(stderr.isTTY ? `\r\x1b[K${line}` : `${line}\n`),
    progressEveryMillis: stderr.isTTY ? terminalEveryMillis : logEveryMillis,
  }).finally(() => stderr.isTTY && stderr.write('\r\x1b[K'))
  stdout.write(options.json ? `${JSON.stringify(summary)}\n` : summaryText(summary))
  return summary.exitCode
}

/** From the package that this file is in: two folders up once it is compiled. */
function version(): string {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string
  }
  return version
}

process.exitCode = await run().catch((error: unknown) => {
  if (!(error instanceof Failure)) throw error
  stderr.write(`telemetry-sim: ${error.message}\n`)
  return error.exitCode
})
