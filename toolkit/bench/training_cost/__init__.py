"""The cost ledger: what each method of training really saves at equal quality, beside what was claimed for it.

    python -m toolkit.bench.training_cost [NAME ...] [--seeds N] [--jobs N] [--recorded] [--json]

A method's ablation is one file in `methods`, found by its name, which holds `ABLATION`:

    def _plain(seed: int, meter: Meter) -> None:
        model, optimizer = ..., ...                      # from `seed` alone; one thread, nothing global changed
        for epoch in range(20):
            for x, y in batches(seed, epoch):
                with meter.step("plain", samples=len(x)):   # charged: processor time, FLOPs by torch's counter, samples
                    loss(model(x), y).backward()
                    optimizer.step()
            meter.judge(accuracy(model))                 # not charged; higher is better

    ABLATION = Ablation(
        name="my_method", factor="koopman", claimed=100.0, task="digits, 1,437 images, accuracy",
        arms={"plain": _plain, "mine": _mine},           # the first is the baseline
        headline="mine", cost="flops", margin=0.005,
    )

Steps of one kind do equal work: FLOPs are counted in the first of them only, since counting is slow. What torch's
counter does not see (FFT, least squares, elementwise work that matters) is added with `meter.spend("flops", n)`. An arm
that uses the shared trainer hands it the meter: `Trainer(..., watcher=meter.watching(quality))`. Both arms of a seed
see the same data, start and judges; what they learn from is not what judges. `tasks` holds small real ones. An arm
should take at most some 15 s on one core.

Equal quality: of each seed, the baseline's last quality less `margin` is what both arms have to reach, and the costs up
to there are compared. A seed in which the method does not reach it counts as a factor of nought. The factor is the
median over seeds, its interval a 95 % bootstrap over them; above one it helps, below it hurts, else it is undecided.
"""
