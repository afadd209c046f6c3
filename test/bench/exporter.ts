import { get, type IncomingMessage } from 'node:http'
import { answer, helperOptions } from './children.ts'
import { deviceName } from './frames.ts'
import { createAgent, fetchBytes, fetchText } from './http-client.ts'

/*
 * A reader that exports everything, over and over: the feed as NDJSON from the earliest reading to the newest, then the
 * history of each device as CSV.
 */

export interface ExporterOptions {
  port: number
  devices: number
}

export interface ExporterResult {
  bytes: number
  /** How often it came to the end of everything. */
  passes: number
}

async function main({ port, devices }: ExporterOptions): Promise<void> {
  const agent = createAgent()
  let bytes = 0
  let passes = 0
  process.on('message', () => {
    const result: ExporterResult = { bytes, passes }
    void answer({ kind: 'done', result }).then(() => process.exit(0))
  })
  await answer({ kind: 'exporting' })
  for (;;) {
    const { text } = await fetchText(port, '/metrics', agent)
    const end = Number(/^hub_log_end_offset (\d+)/m.exec(text)?.[1])
    await readFeed(end - 1, (length) => {
      bytes += length
    })
    for (let device = 0; device < devices; device++) {
      bytes += (await fetchBytes(port, `/v1/devices/${deviceName(device)}/telemetry?format=csv`, agent)).bytes
    }
    passes++
  }

  /** The stream never ends by itself, so this counts its lines. */
  function readFeed(lines: number, onBytes: (length: number) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const path = '/v1/feed?after=earliest'
      const options = { host: '127.0.0.1', port, path, headers: { accept: 'application/x-ndjson' } }
      const request = get(options, (response: IncomingMessage) => {
        let left = lines
        response.on('error', () => {})
        response.on('data', (chunk: Buffer) => {
          onBytes(chunk.length)
          for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) left--
          if (left > 0) return
          request.destroy()
          resolve()
        })
      })
      request.on('error', reject)
    })
  }
}

if (process.argv[1] === import.meta.filename) await main(helperOptions<ExporterOptions>())
