import { parseArgs } from 'node:util'
import { loadConfig } from '../config.ts'
import { StartError } from '../errors.ts'

interface Arguments {
  file: string
  folder: string
  force: boolean
}

export async function backupCommand(args: string[]): Promise<void> {
  const { file, folder, force } = await readArguments('backup', args)
  const { backUp } = await import('../store/sqlite/backup.ts')
  const stopped = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => stopped.abort(new Error(`stopped by ${signal}`)))
  }
  const begun = performance.now()
  const { bytes, through } = await backUp({ folder, file, force, signal: stopped.signal }).catch(tell)
  const seconds = ((performance.now() - begun) / 1000).toFixed(1)
  console.log(`${file}: ${(bytes / 1e6).toFixed(1)} MB, sound, through reading ${through} of the log, in ${seconds} s`)
}

export async function restoreCommand(args: string[]): Promise<void> {
  const { file, folder, force } = await readArguments('restore', args)
  const { restore } = await import('../store/sqlite/restore.ts')
  const { through, aside } = await restore({ file, folder, force }).catch(tell)
  console.log(`${folder} holds ${file}, through reading ${through} of the log: start the hub there`)
  if (aside !== null) console.log(`the database of before is ${aside}`)
}

async function readArguments(command: string, args: string[]): Promise<Arguments> {
  const options = { data: { type: 'string' }, config: { type: 'string' }, force: { type: 'boolean' } } as const
  try {
    const { values, positionals } = parseArgs({ args, options, allowPositionals: true })
    const [file, ...more] = positionals
    if (!file || more.length > 0) throw new Error(`${command} takes one FILE`)
    // The folder is the setting of the hub: from its file and its environment too.
    const settings = (['data', 'config'] as const).flatMap((name) => {
      const value = values[name]
      return value === undefined ? [] : [`--${name}`, value]
    })
    const { config } = await loadConfig(settings, process.env)
    return { file, folder: config.data, force: values.force ?? false }
  } catch (error) {
    if (error instanceof StartError) throw error
    throw new StartError(`${(error as Error).message.split('. ')[0]}: see telemetry-hub --help`)
  }
}

/** What is wrong with a file is one line for a person. */
function tell(error: Error): never {
  throw new StartError(error.message, { cause: error })
}
