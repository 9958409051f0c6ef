import { listOf, type Selector } from '@keyturn/contract'

/**
 * A selector as a condition on the credential `c`; it adds its values to those of the statement. By client: index
 * credentials_client_id_environment_name_key; by label: credentials_by_label. Otherwise all credentials are looked at.
 */
export function selectorSql({ client, environment, scope, labels = {} }: Selector, values: unknown[]): string {
  const conditions: string[] = []
  const any = (column: string, list: readonly string[] | undefined): void => {
    if (list !== undefined) conditions.push(`${column} = any($${values.push(list)})`)
  }
  any('c.client_id', listOf<string>(client))
  any('c.environment', listOf<string>(environment))
  const scopes = listOf<string>(scope)
  if (scopes !== undefined) {
    // Written out: a function with a query in it is not inlined, and takes ten times as long for each credential.
    const both = `unnest($${values.push(scopes)}::text[]) p, unnest(c.scopes) s`
    conditions.push(`exists (select from ${both} where scope_covers(p, s) or scope_covers(s, p))`)
  }
  if (Object.keys(labels).length > 0) conditions.push(`c.labels @> $${values.push(JSON.stringify(labels))}::jsonb`)
  return conditions.length === 0 ? 'true' : conditions.join(' and ')
}
