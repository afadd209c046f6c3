import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { connectAsync } from 'mqtt'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { startProtectedHub } from './access/protected-hub.ts'
import { type HubProcess, hubTest, startHubProcess, temporaryFolder } from './hub-process.ts'

const executable = findBrowser()
const absent = 'no Chromium on the PATH, so nobody has looked at the dashboard'
if (executable === null && !process.env.CI) console.warn(`\n*** SKIPPED: test/dashboard.test.ts: ${absent} ***\n`)

const browserFlags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync']
const quietFlags = ['--disable-background-networking', '--disable-component-update']
const patience = { timeout: 20_000 }
const minute = 60_000

// A machine of a person may lack it; that of the project may not.
if (executable === null && process.env.CI) {
  test('CI has a Chromium to test the dashboard with', () => {
    throw new Error(absent)
  })
}

const title = executable === null ? `the dashboard (skipped: ${absent})` : 'the dashboard'
// A browser and a hub for each test: a busy machine takes its time.
describe.skipIf(executable === null)(title, { timeout: 60_000 }, () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executable as string, args: [...browserFlags, ...quietFlags] })
  })
  afterAll(() => browser?.close())

  async function open(hub: HubProcess, fragment = '', width = 1280): Promise<{ page: Page; errors: string[] }> {
    const page = await browser.newPage({ viewport: { width, height: 800 } })
    onTestFinished(() => page.close())
    const errors: string[] = []
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') errors.push(message.text())
    })
    page.on('pageerror', (error) => errors.push(String(error)))
    await page.goto(`${hub.http}/${fragment}`)
    return { page, errors }
  }

  const text = (page: Page, selector: string) => page.locator(selector).textContent()
  const row = (page: Page, name: string) =>
    page.locator('#devices a', { has: page.locator('.name', { hasText: name }) })

  test('asks for a token where the hub has credentials, keeps it from scripts, lets it go, and asks again when it is revoked', async () => {
    const hub = await startProtectedHub()
    await hub.as(hub.admin, '/v1/devices/kitchen/telemetry', { method: 'POST', body: '{"temperature":21.5}' })
    const { page } = await open(hub)
    await page.locator('#sign-in').waitFor()
    expect(await page.locator('#something').isVisible()).toBe(false)
    await page.locator('#token').fill('hub_wrong')
    await page.keyboard.press('Enter')
    await expect.poll(() => text(page, '#sign-in-problem'), patience).toContain('the token is wrong')
    await page.locator('#token').fill(hub.admin)
    await page.keyboard.press('Enter')
    await row(page, 'kitchen').waitFor()
    await expect.poll(() => text(page, '#feed'), patience).toBe('live')
    expect(await page.locator('#sign-in').isVisible()).toBe(false)
    expect(await page.evaluate('document.cookie + JSON.stringify(localStorage)')).not.toContain('hub_')
    await page.reload()
    await row(page, 'kitchen').waitFor()
    await page.locator('#sign-out').click()
    await page.locator('#sign-in').waitFor()

    await page.locator('#token').fill(await hub.command('token', 'create', '--name', 'reader', '--role', 'read'))
    await page.keyboard.press('Enter')
    await page.locator('#sign-in').waitFor({ state: 'hidden' })
    await expect.poll(() => text(page, '#feed'), patience).toBe('live')
    await hub.command('token', 'revoke', 'reader')
    await page.locator('#sign-in').waitFor()
  })

  test('says how to send the first reading, shows it when it comes, and who is there', async () => {
    const hub = await startHubProcess()
    const { page, errors } = await open(hub)
    await expect
      .poll(() => text(page, '#try-http'), patience)
      .toContain(`curl ${hub.http}/v1/devices/kitchen/telemetry`)
    await page.locator('#nothing').waitFor()
    expect(await text(page, '#try-mqtt')).toContain('mosquitto_pub -h 127.0.0.1')
    await push(hub, [{ device: 'kitchen', temperature: 21.5 }])
    await row(page, 'kitchen').waitFor()
    await expect.poll(() => text(page, '#chart-value'), patience).toBe('21.5')
    expect(await page.locator('#nothing').isVisible()).toBe(false)

    const client = await connectAsync(hub.mqtt)
    onTestFinished(() => client.endAsync(true))
    await client.publishAsync('devices/over-mqtt/telemetry', '{"temperature":7}', { qos: 1 })
    const presenceOf = (name: string) => row(page, name).locator('.visually-hidden').textContent()
    await expect.poll(() => presenceOf('over-mqtt'), patience).toBe('online')
    await expect.poll(() => presenceOf('kitchen'), patience).toBe('heard recently')
    await page.reload()
    await expect.poll(() => presenceOf('over-mqtt'), patience).toBe('online')
    await expect.poll(() => text(page, '#online'), patience).toBe('1 of 2')
    await expect.poll(() => text(page, '#feed'), patience).toBe('live')
    await client.endAsync()
    await expect.poll(() => presenceOf('over-mqtt'), patience).toBe('heard recently')
    await expect.poll(() => text(page, '#online'), patience).toBe('0 of 2')
    expect(errors).toEqual([])
  })

  hubTest('latest values update live, and a late reading does not replace them', async ({ hub }) => {
    const now = Date.now()
    await push(hub, [{ device: 'latest', ts: now - 5000, values: { flow: 1.5, running: true, state: 'warm' } }])
    const { page, errors } = await open(hub, '#device=latest')
    const values = () => page.locator('.tile .value').allTextContents()
    await expect.poll(values, patience).toEqual(['1.5', 'yes', 'warm'])
    await push(hub, [{ device: 'latest', ts: now - 4000, values: { flow: 2.25, running: false } }])
    await expect.poll(values, patience).toEqual(['2.25', 'no', 'warm'])
    await push(hub, [
      { device: 'latest', ts: now - 9000, values: { flow: 99 } },
      { device: 'latest', ts: now - 3000, values: { state: 'cold' } },
    ])
    await expect.poll(values, patience).toEqual(['2.25', 'no', 'cold'])
    await expect
      .poll(() => row(page, 'latest').locator('.value').allTextContents(), patience)
      .toEqual(['2.25', 'no', 'cold'])
    expect(errors).toEqual([])
  })

  hubTest('the chart misses nothing and doubles nothing between history and feed', async ({ hub }) => {
    const begin = Date.now() - 10 * minute
    let sent = 0
    let pushing = true
    const pushes = (async () => {
      for (; pushing; sent++) await push(hub, [{ device: 'seam', ts: begin + sent * 100, values: { flow: sent } }])
    })()
    await expect.poll(() => sent, patience).toBeGreaterThan(20)
    const { page, errors } = await open(hub, '#device=seam&metric=flow')
    await expect.poll(() => points(page), patience).toBeGreaterThan(20)
    const before = sent
    await expect.poll(() => sent, patience).toBeGreaterThan(before + 20)
    pushing = false
    await pushes
    await expect.poll(() => points(page), patience).toBe(sent)
    expect(await stored(hub, 'seam', begin)).toBe(sent)
    expect(errors).toEqual([])
  })

  test('the chart keeps its history and misses nothing when the hub restarts', async () => {
    const folder = await temporaryFolder()
    const hub = await startHubProcess({ folder })
    const begin = Date.now() - 10 * minute
    const readings = (from: number, to: number) =>
      Array.from({ length: to - from }, (_, i) => ({
        device: 'pump',
        ts: begin + (from + i) * 1000,
        values: { flow: i },
      }))
    await push(hub, readings(0, 50))
    const { page, errors } = await open(hub, '#device=pump&metric=flow')
    await expect.poll(() => points(page), patience).toBe(50)
    await push(hub, readings(50, 60))
    await expect.poll(() => points(page), patience).toBe(60)
    await expect.poll(() => text(page, '#feed'), patience).toBe('live')

    await hub.kill('SIGKILL')
    await expect.poll(() => text(page, '#feed'), patience).toMatch(/reconnecting|offline/)
    expect(await points(page)).toBe(60)
    await expect.poll(() => text(page, '#feed'), patience).toBe('offline')
    await expect.poll(() => text(page, '#notice-text'), patience).toContain('does not answer')

    const { httpPort, mqttPort } = hub
    const again = await startHubProcess({ folder, httpPort, mqttPort })
    await push(again, readings(60, 90))
    // One that came before, and a correction: no new points.
    await push(again, [...readings(89, 90), { device: 'pump', ts: begin, values: { flow: 1000 } }])
    await expect.poll(() => text(page, '#feed'), patience).toBe('live')
    await expect.poll(() => points(page), patience).toBe(90)
    expect(await stored(again, 'pump', begin)).toBe(90)
    await expect.poll(() => text(page, '#readout'), patience).toContain('and 1,000')
    expect(await page.locator('#notice').isVisible()).toBe(false)
    expect(errors.filter((error) => !error.includes('net::ERR'))).toEqual([])
  })

  test('begins anew when another hub answers at the same address', async () => {
    const hub = await startHubProcess()
    await push(hub, [{ device: 'old', level: 1 }])
    const { page } = await open(hub)
    await row(page, 'old').waitFor()
    await expect.poll(() => text(page, '#feed'), patience).toBe('live')
    await hub.kill('SIGKILL')
    const other = await startHubProcess({ httpPort: hub.httpPort, mqttPort: hub.mqttPort })
    await push(other, [{ device: 'new', level: 2 }])
    await row(page, 'new').waitFor()
    await expect.poll(() => row(page, 'old').count(), patience).toBe(0)
    await expect.poll(() => text(page, '#feed'), patience).toBe('live')
  })

  hubTest('buckets of a long span count each live reading once', async ({ hub }) => {
    const interval = 30_000
    const bucket = Math.floor(Date.now() / interval) * interval - 10 * interval
    await push(hub, [{ device: 'buckets', ts: bucket, values: { flow: 10 } }])
    const { page, errors } = await open(hub, '#device=buckets&metric=flow&span=6h')
    await expect.poll(() => points(page), patience).toBe(1)
    await push(hub, [
      { device: 'buckets', ts: bucket + 1, values: { flow: 20 } },
      { device: 'buckets', ts: bucket + 2, values: { flow: 60 } },
      { device: 'buckets', ts: bucket + interval, values: { flow: 1 } },
    ])
    await expect.poll(() => points(page), patience).toBe(2)
    const label = () => page.locator('#chart').getAttribute('aria-label')
    await expect.poll(label, patience).toContain('2 points from 1 to 60, the latest 1')
    await push(hub, [{ device: 'buckets', ts: bucket + interval + 1, values: { flow: 4 } }])
    await expect.poll(label, patience).toContain('2 points from 1 to 60, the latest 2.5')
    expect(errors).toEqual([])
  })

  test('lists every device of many pages, and finds one by typing', async () => {
    const hub = await startHubProcess()
    await push(
      hub,
      Array.from({ length: 1200 }, (_, i) => ({ device: `meter-${i}`, power: i })),
    )
    const { page, errors } = await open(hub)
    await expect.poll(() => text(page, '#count'), patience).toBe('1,200')
    await page.keyboard.press('/')
    await page.keyboard.type('METER 119')
    await expect.poll(() => text(page, '#count'), patience).toBe('12 of 1,200')
    // meter-119, meter-1119, meter-1190
    for (const key of ['ArrowDown', 'ArrowDown', 'ArrowDown', 'Enter']) await page.keyboard.press(key)
    await expect.poll(() => text(page, '#device-name'), patience).toBe('meter-1190')
    await page.locator('#spans a', { hasText: '1 h' }).click()
    expect(new URL(page.url()).hash).toBe('#device=meter-1190&metric=power&span=1h')
    await page.reload()
    await expect.poll(() => text(page, '#device-name'), patience).toBe('meter-1190')
    await expect.poll(() => points(page), patience).toBe(1)
    expect(await text(page, '#spans a[aria-current]')).toBe('1 h')
    expect(errors).toEqual([])
  })

  hubTest('hostile names and values are shown as text', async ({ hub }) => {
    const device = '<img src=x onerror=document.title=1>'
    const metric = '"><script>document.title=2</script>,*'
    await push(hub, [{ device, values: { [metric]: 7, note: '<b onclick=x>bold</b>', __proto__x: 1, constructor: 3 } }])
    const { page, errors } = await open(hub, `#${new URLSearchParams({ device, metric })}`)
    await expect.poll(() => text(page, '#device-name'), patience).toBe(device)
    await expect.poll(() => points(page), patience).toBe(1)
    expect(await text(page, '#chart-metric')).toBe(metric)
    expect(await page.locator('#devices .name').allTextContents()).toContain(device)
    expect(await page.locator('.tile .metric').allTextContents()).toContain(metric)
    expect(await page.locator('.tile .value').allTextContents()).toContain('<b onclick=x>bold</b>')
    expect(await page.locator('main img, main script, main b').count()).toBe(0)
    expect(await page.title()).toBe('telemetry-hub')
    const csv = await page.locator('#csv').getAttribute('href')
    expect(await (await fetch(hub.http + csv)).text()).toContain('bold')
    expect(errors).toEqual([])
  })

  hubTest('no errors on the console and no violations of the content security policy', async ({ hub }) => {
    const now = Date.now()
    await push(
      hub,
      Array.from({ length: 300 }, (_, i) => ({
        device: `d${i % 3}`,
        ts: now - i * 30 * minute,
        values: { a: i, b: 1, c: 'x' },
      })),
    )
    const { page, errors } = await open(hub, '#device=d0')
    await page.evaluate(
      "document.addEventListener('securitypolicyviolation', (e) => console.error(e.violatedDirective))",
    )
    for (const span of ['15 min', '1 h', '6 h', '24 h', '7 d']) {
      await page.locator('#spans a', { hasText: span }).click()
      await expect.poll(() => points(page), patience).toBeGreaterThan(0)
      await page.locator('#chart').hover()
    }
    await page.emulateMedia({ colorScheme: 'dark', reducedMotion: 'reduce' })
    await row(page, 'd2').click()
    await expect.poll(() => points(page), patience).toBeGreaterThan(0)
    await page.setViewportSize({ width: 700, height: 500 })
    await page.locator('#back').click()
    await row(page, 'd1').waitFor()
    expect(errors).toEqual([])
  })

  hubTest('works at 360 px without horizontal scrolling', async ({ hub }) => {
    const long = 'a-name-without-any-space-that-is-far-wider-than-the-screen-of-a-telephone'
    await push(hub, [{ device: long, values: { [long]: 123456789.125, note: 'text '.repeat(200), odometer: 1e9 } }])
    const { page, errors } = await open(hub, '', 360)
    const width = () => page.evaluate('document.documentElement.scrollWidth')
    await row(page, long).waitFor()
    expect(await width()).toBe(360)
    await row(page, long).click()
    await expect.poll(() => points(page), patience).toBe(1)
    expect(await width()).toBe(360)
    expect(await page.locator('#devices').isVisible()).toBe(false)
    await page.locator('#back').click()
    await row(page, long).waitFor()
    expect(await page.locator('#chart').isVisible()).toBe(false)
    expect(errors).toEqual([])
  })
})

async function push(hub: HubProcess, readings: Record<string, unknown>[]): Promise<void> {
  const response = await fetch(`${hub.http}/v1/telemetry`, { method: 'POST', body: JSON.stringify(readings) })
  const answer = (await response.json()) as { rejected?: unknown }
  expect(answer.rejected, JSON.stringify(answer)).toBeUndefined()
}

/** How many points the chart says it holds; 0 without a chart. */
async function points(page: Page): Promise<number> {
  return Number((await page.locator('#chart').getAttribute('data-points')) ?? 0)
}

/** How many points the API has. */
async function stored(hub: HubProcess, device: string, from: number): Promise<number> {
  const query = new URLSearchParams({ metrics: 'flow', from: String(from), limit: '100000' })
  const { readings } = await hub.get<{ readings: unknown[] }>(`/v1/devices/${device}/telemetry?${query}`)
  return readings.length
}

function findBrowser(): string | null {
  const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable']
  const folders = (process.env.PATH ?? '').split(delimiter)
  for (const file of names.flatMap((name) => folders.map((folder) => join(folder, name)))) {
    try {
      accessSync(file, constants.X_OK)
      return file
    } catch {
      // Not here.
    }
  }
  return null
}
