import { hostname, userInfo } from 'node:os'
import { text } from 'node:stream/consumers'
import { parseArgs } from 'node:util'
import {
  type Credential,
  fromKept,
  type GivenCredential,
  makeCredential,
  maxCredentials,
  toKept,
} from '../access/credential.ts'
import { loadConfig } from '../config.ts'
import { StartError } from '../errors.ts'
import { type Administration, openAdministration } from '../store/sqlite/administration.ts'
import { UnusableFile } from '../store/sqlite/schema.ts'

type Kind = Credential['kind']

const lists = ['role', 'devices', 'publish', 'subscribe'] as const
const texts = ['name', 'expires', 'data', 'config'] as const
const switches = ['password-stdin', 'certificate', 'json'] as const
type Given = { [name in (typeof lists)[number]]?: string[] } & { [name in (typeof texts)[number]]?: string } & {
  [name in (typeof switches)[number]]?: boolean
}

/** `telemetry-hub token …` and `telemetry-hub device …`: who may come in, written into the file of the hub. */
export function credentialCommand(kind: Kind): (args: string[]) => Promise<void> {
  return async (args) => {
    const [verb = '', ...rest] = args
    const { given, named } = readArguments(rest)
    const administration = await open(given)
    try {
      if (verb === 'create') await create(administration, kind, named ?? given.name ?? '', given)
      else if (verb === 'list') list(administration, kind, given.json ?? false)
      else if (verb === 'revoke' && named !== undefined) revoke(administration, kind, named)
      else throw new StartError(`telemetry-hub ${kind} takes create, list or revoke: see telemetry-hub --help`)
    } finally {
      administration.close()
    }
  }
}

async function create(administration: Administration, kind: Kind, name: string, given: Given): Promise<void> {
  const { role, devices, publish, subscribe, expires, certificate } = given
  const asked = { kind, name, roles: role, devices, publish, subscribe, expires, certificate }
  const password = given['password-stdin'] ? (await text(process.stdin)).trimEnd() : undefined
  const said = Object.fromEntries(Object.entries({ ...asked, password }).filter(([, value]) => value !== undefined))
  const { credential, secret } = await makeCredential(said as unknown as GivenCredential, Date.now()).catch((error) => {
    throw new StartError((error as Error).message)
  })
  if (administration.list().length >= maxCredentials) {
    throw new StartError(`there are ${maxCredentials} credentials, the most there may be`)
  }
  administration.save(toKept(credential), by('credential.create', `${kind} ${name}`))
  if (given.json) return void console.log(JSON.stringify({ ...shown(credential), secret }))
  // The secret alone on standard output, so that it can go where it is needed without being seen.
  if (secret !== null) console.log(secret)
  const use = kind === 'token' ? 'Authorization: Bearer <it>' : `user name ${name}, password <it>`
  const told = secret === null ? '' : `\nThis is its secret, shown this once: ${use}`
  process.stderr.write(`${kind} ${credential.id} (${name}) may come in.${told}\n`)
}

function list(administration: Administration, kind: Kind, json: boolean): void {
  const found = administration
    .list()
    .map(fromKept)
    .filter((credential) => credential.kind === kind)
  if (json) return void console.log(JSON.stringify(found.map(shown)))
  for (const { id, name, roles, devices, expires, lastUsed } of found) {
    const rights = [...roles, ...devices.map((device) => `devices ${device}`)].join(', ')
    const until = expires === null ? 'for ever' : `until ${day(expires)}`
    console.log(`${id}  ${name}  ${rights}  ${until}  ${lastUsed === null ? 'never used' : `used ${day(lastUsed)}`}`)
  }
}

function revoke(administration: Administration, kind: Kind, named: string): void {
  const found = administration.list().filter((row) => row.kind === kind && (row.id === named || row.name === named))
  if (found.length === 0) throw new StartError(`there is no ${kind} "${named}": see telemetry-hub ${kind} list`)
  for (const { id, name } of found) {
    administration.remove(id, by('credential.revoke', `${kind} ${id} (${name})`))
    process.stderr.write(`${kind} ${id} (${name}) may no longer come in.\n`)
  }
}

function readArguments(args: string[]): { given: Given; named: string | undefined } {
  const options = Object.fromEntries([
    ...lists.map((name) => [name, { type: 'string', multiple: true }]),
    ...texts.map((name) => [name, { type: 'string' }]),
    ...switches.map((name) => [name, { type: 'boolean' }]),
  ])
  try {
    const { values, positionals } = parseArgs({ args, options, allowPositionals: true })
    const given = values as Given
    for (const name of lists) {
      const items = given[name]
      if (items) given[name] = items.flatMap((item) => item.split(','))
    }
    return { given, named: positionals[0] }
  } catch (error) {
    throw new StartError(`${(error as Error).message.split('. ')[0]}: see telemetry-hub --help`)
  }
}

async function open({ data, config }: Given): Promise<Administration> {
  const flags = [...(data === undefined ? [] : ['--data', data]), ...(config === undefined ? [] : ['--config', config])]
  const { config: settings } = await loadConfig(flags, process.env)
  try {
    return openAdministration(settings.data)
  } catch (error) {
    throw error instanceof UnusableFile ? new StartError(error.message) : error
  }
}

function shown({ hash, ...credential }: Credential) {
  return credential
}

function by(action: string, subject: string) {
  return { at: Date.now(), actor: `${userInfo().username} at ${hostname()}, on the command line`, action, subject }
}

function day(millis: number): string {
  return new Date(millis).toISOString().slice(0, 16)
}
