export const actions = {
	default: async ({ request }) => {
		const form = await request.formData();
		return { answer: `The server greets ${form.get('name')}` };
	}
};
