import { existsSync, readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import type { CodecName } from '../devices/codecs.ts'
import { type Mapping, mappingProblem } from '../devices/topics.ts'
import { StartError } from './errors.ts'
import { type Config, settings } from './settings.ts'

export interface Sourced {
  config: Config
  /** Where each setting came from: `default`, `flag`, `environment`, or the name of the file. */
  sources: Record<string, string>
  /** The settings as they are written. */
  written: Record<string, string>
}

/** The settings that nobody has changed. */
export function defaultConfig(): Config {
  const values = settings.map(({ key, initial, read }) => [key, read(initial)])
  return { ...Object.fromEntries(values), mappings: [] } as Config
}

/** The settings from flags over environment over file over defaults. Throws `StartError` for what is not one. */
export async function loadConfig(args: readonly string[], environment: NodeJS.ProcessEnv): Promise<Sourced> {
  const flags = readFlags(args)
  const file = await readFile(flags.config ?? environment.HUB_CONFIG)
  const config: Record<string, unknown> = {}
  const sources: Record<string, string> = {}
  const written: Record<string, string> = {}
  for (const setting of settings) {
    const given = [
      { source: 'flag', name: flagName(setting.key), text: flags[setting.key] },
      { source: 'environment', name: variableName(setting.key), text: environment[variableName(setting.key)] },
      { source: file.path, name: `${setting.key} in ${file.path}`, text: file.values[setting.key] ?? undefined },
      { source: 'default', name: setting.key, text: setting.initial },
    ].find((candidate) => candidate.text !== undefined) as { source: string; name: string; text: string }
    const value = setting.read(String(given.text))
    if (value === null) throw new StartError(`${given.name} is "${given.text}": expected ${expected(setting)}`)
    config[setting.key] = value
    sources[setting.key] = given.source
    written[setting.key] = String(given.text)
  }
  config.mappings = readMappings(file.values.mappings, file.path)
  sources.mappings = (file.values.mappings ?? null) === null ? 'default' : file.path
  return { config: config as unknown as Config, sources, written }
}

function expected({ value, initial }: (typeof settings)[number]): string {
  if (value === '') return 'true or false'
  return initial === '' || value.includes('|') ? value : `${value}, such as ${initial}`
}

export function flagName(key: string): string {
  return `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
}

export function variableName(key: string): string {
  return `HUB_${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`
}

function readFlags(args: readonly string[]): Record<string, string | undefined> {
  const options: Record<string, { type: 'string' | 'boolean' }> = { config: { type: 'string' } }
  for (const { key, value } of settings) options[flagName(key).slice(2)] = { type: value === '' ? 'boolean' : 'string' }
  try {
    const { values } = parseArgs({ args: [...args], options, strict: true, allowPositionals: false })
    const flags: Record<string, string | undefined> = { config: values.config as string | undefined }
    for (const { key } of settings) {
      const given = values[flagName(key).slice(2)]
      if (given !== undefined) flags[key] = String(given)
    }
    return flags
  } catch (error) {
    throw new StartError(`${(error as Error).message.split('. ')[0]}: see telemetry-hub --help`)
  }
}

const defaultFile = 'hub.yaml'

async function readFile(named: string | undefined): Promise<{ path: string; values: Record<string, unknown> }> {
  const path = named ?? defaultFile
  if (named === undefined && !existsSync(path)) return { path, values: {} }
  const { parse } = await import('yaml')
  let values: unknown
  try {
    values = parse(readFileSync(path, 'utf8')) ?? {}
  } catch (error) {
    throw new StartError(`cannot read the configuration ${path}: ${(error as Error).message.split('\n')[0]}`)
  }
  if (typeof values !== 'object' || Array.isArray(values))
    throw new StartError(`${path} must hold settings, one "name: value" a line`)
  const known = new Set<string>([...settings.map(({ key }) => key), 'mappings'])
  for (const name of Object.keys(values as object)) {
    if (!known.has(name)) throw new StartError(`${path} holds the unknown setting "${name}": see telemetry-hub --help`)
  }
  return { path, values: values as Record<string, unknown> }
}

function readMappings(given: unknown, path: string): Mapping[] {
  if (given === undefined || given === null) return []
  if (!Array.isArray(given)) throw new StartError(`mappings in ${path} must be a list of {topic, codec}`)
  return given.map((entry) => {
    const { topic, codec = 'json' } = (entry ?? {}) as { topic?: unknown; codec?: unknown }
    if (typeof topic !== 'string') throw new StartError(`each of the mappings in ${path} needs a topic`)
    const problem = mappingProblem({ topic, codec: String(codec) })
    if (problem) throw new StartError(`mappings in ${path}: ${problem}`)
    return { topic, codec: codec as CodecName }
  })
}
