/* outliers: IntOutliers, from the compiler
 *   y = number of x outside -9..7
 */
static BP_NOINLINE void node_000_patches_outliers(const int8_t *x, int32_t *y)
{
    bp_outliers_i8_i32_1d(x, y, -9, 7, 4, 1);
}

/* Patches from [1, 2, 2, 1] to [1, 2, 2, 1]. */
static BP_NOINLINE void node_000_patches_piece_0(const int8_t *from, int8_t *to, uint8_t *arena)
{
    (void)arena;
    node_000_patches_clamp(from, to, node_000_patches_clamp_numbers[0]);
}

/* Patches from [1, 2, 2, 1] to [1, 2, 2, 1]. */
static BP_NOINLINE void node_000_patches_piece_1(const int8_t *from, int8_t *to, uint8_t *arena)
{
    (void)arena;
    node_000_patches_clamp(from, to, node_000_patches_clamp_numbers[1]);
}

/* How many outliers are in what a patch reads. */
static BP_NOINLINE void node_000_patches_test_0(const int8_t *from, int32_t *to, uint8_t *arena)
{
    (void)arena;
    node_000_patches_outliers(from, to);
}

/* A patch is of the first piece with more outliers than so many, otherwise of the second. */
static BP_NOINLINE void node_000_patches_choice_0(const int8_t *from, int8_t *to, uint8_t *arena)
{
    int32_t outliers;
    node_000_patches_test_0(from, &outliers, arena);
    if (outliers > 1) {
        node_000_patches_piece_0(from, to, arena);
    } else {
        node_000_patches_piece_1(from, to, arena);
    }
}

/* Of each patch: its choice, and where it starts in the operand and in the result. */
static const int32_t node_000_patches_patches[2][3] = {
    { 0, 0, 0 },
    { 0, 4, 4 },
};

/* patches: Patched, from the compiler
 *   2 x 1 patches
 *   x `x` [1, 4, 2, 1] i8@2^-4
 *   y `y` [1, 4, 2, 1] i8@2^-4
 */
static BP_NOINLINE void node_000_patches(const int8_t *x, int8_t *y)
{
    for (int32_t i = 0; i < 2; ++i) {
        const int32_t *const patch = node_000_patches_patches[i];
        const int8_t *const from = x + patch[1];
        int8_t *const to = y + patch[2];
        switch (patch[0]) {
        default:
            node_000_patches_choice_0(from, to, NULL);
            break;
        }
    }
}

