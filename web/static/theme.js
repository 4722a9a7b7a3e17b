// SPDX-License-Identifier: Apache-2.0
// Sets the chosen theme before the first paint; a classic script, because modules run too late for that.
try {
	const theme = new URLSearchParams(location.search).get('theme') ?? localStorage.getItem('lightforced.theme');
	if (theme === 'dark' || theme === 'light')
		document.documentElement.dataset.theme = theme;
} catch {
	// No storage: the system decides.
}
