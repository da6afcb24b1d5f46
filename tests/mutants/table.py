"""The faults that are put in on purpose, and the tests that must notice each."""

# ruff: noqa: E501 (a line is a line of the source)

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One fault: in `file`, the text `old`, which occurs once, becomes `new`; one of `tests` must then fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


NET = "tests/test_safety_net.py"
VISITORS, PUBLIC = "tests/test_visitors.py", "tests/pages/test_public.py"
CURIOSITY = "tests/routing/test_curiosity.py"
MIXING = "tests/routing/test_mixing.py"
UNCERTAINTY = "tests/routing/test_uncertainty.py"
ROUTER = "tests/routing/test_router.py"
DISTILLED = "tests/routing/test_distilled.py"
BITS = "tests/engine/test_bits.py"
LAYERS = "tests/experts/test_layers.py"
STORE, BACKUP = "tests/runtime/store/test_store.py", "tests/runtime/store/test_backup.py"
LOG, DETECTIONS, RING = "tests/live/test_log.py", "tests/live/test_detections.py", "tests/live/test_ring.py"
TERMINAL, TIMELINE, SOURCES = (
    "tests/live/test_terminal.py",
    "tests/live/test_timeline.py",
    "tests/live/test_sources.py",
)
CALIBRATION = "tests/evaluation/test_calibration.py"
CLASSIFICATION = "tests/evaluation/test_classification.py"
SIGNIFICANCE = "tests/evaluation/test_significance.py"
LAYERS_PY, ENTRY_PY = "qmoe_core/experts/layers.py", "qmoe_core/runtime/store/entry.py"
FOLDER_PY, BACKUP_PY = "qmoe_core/runtime/store/folder.py", "qmoe_core/runtime/store/backup.py"
CURIOSITY_PY, UNCERTAINTY_PY = "qmoe_core/routing/curiosity.py", "qmoe_core/routing/uncertainty.py"
SYSTEM_PY = "qmoe_core/runtime/system.py"
LOG_PY, DETECTIONS_PY = "qmoe_core/live/log.py", "qmoe_core/live/detections.py"
CLASSIFICATION_PY = "qmoe_core/evaluation/classification.py"

M = Mutant
MUTANTS = (
    # Routing
    M(
        "alpha-sign",
        CURIOSITY_PY,
        "+ alpha * interest[i]",
        "- alpha * interest[i]",
        (CURIOSITY,),
    ),
    M(
        "alpha-zero",
        CURIOSITY_PY,
        "    if alpha == 0.0:",
        "    if alpha <= 1.0:",
        (CURIOSITY,),
    ),
    M("top-k-one-more", CURIOSITY_PY, "if larger < k", "if larger <= k", (CURIOSITY,)),
    M(
        "top-k-not-renormalised",
        CURIOSITY_PY,
        "        total += out[i]\n    for i in range(routing.size):",
        "        total = 1.0\n    for i in range(routing.size):",
        (CURIOSITY, MIXING),
    ),
    M("entropy-sign", UNCERTAINTY_PY, "total -= p[i] * np.log", "total += p[i] * np.log", (UNCERTAINTY,)),
    M(
        "divergence-turned",
        UNCERTAINTY_PY,
        "total += p[i] * (np.log",
        "total -= q[i] * (np.log",
        (UNCERTAINTY,),
    ),
    M(
        "disagreement-from-the-first",
        UNCERTAINTY_PY,
        "divergence(q, q.mean(axis=-2, keepdims=True))",
        "divergence(q, q[..., :1, :])",
        (UNCERTAINTY, MIXING),
    ),
    M(
        "dropout-not-inverted",
        "qmoe_core/routing/router.py",
        "(keep / (1.0 - self.dropout))",
        "(keep * 1.0)",
        (ROUTER,),
    ),
    M(
        "dropout-kept-and-dropped",
        "qmoe_core/routing/router.py",
        ">= self.dropout",
        "< self.dropout",
        (ROUTER,),
    ),
    M(
        "worth-asking-strictly",
        "qmoe_core/routing/distilled.py",
        "rival >= np.log",
        "rival > np.log",
        (f"{DISTILLED}::test_when_the_cheap_expert_is_worth_asking",),
    ),
    # The engine
    M(
        "one-bit-zero",
        LAYERS_PY,
        "torch.sign(weight).add_(0.5).sign_()",
        "torch.sign(weight).sub_(0.5).sign_()",
        (LAYERS,),
    ),
    M(
        "one-bit-order",
        "qmoe_core/engine/bits.py",
        'count=inputs, bitorder="little"',
        'count=inputs, bitorder="big"',
        (BITS,),
    ),
    M(
        "unpack-without-sign",
        "qmoe_core/engine/bits.py",
        ".view(np.int8) >> np.int8(8 - bits)",
        " >> np.uint8(8 - bits)",
        (BITS,),
    ),
    M(
        "pack-shift",
        "qmoe_core/engine/bits.py",
        '.astype("<u8") << np.uint64(i * bits)',
        '.astype("<u8") << np.uint64((7 - i) * bits)',
        (BITS,),
    ),
    M(
        "rival-of-another",
        "qmoe_core/routing/distilled.py",
        "        if r[i] > r[best]:\n            best = i\n    rival",
        "        if r[i] < r[best]:\n            best = i\n    rival",
        (DISTILLED,),
    ),
    # Training
    M(
        "popcount-at-the-threshold",
        LAYERS_PY,
        "(input.detach() > self.threshold)",
        "(input.detach() >= self.threshold)",
        (f"{NET}::test_an_activation_at_the_threshold_is_not_above_it",),
    ),
    M("activation-levels", LAYERS_PY, "ACTIVATION_LEVELS = 127.0", "ACTIVATION_LEVELS = 63.0", (LAYERS,)),
    M("ternary-threshold", LAYERS_PY, "threshold = 0.7 * ", "threshold = 0.5 * ", (LAYERS,)),
    M(
        "levels-off-by-one",
        LAYERS_PY,
        "top = float(2 ** (self.bits - 1) - 1)",
        "top = float(2 ** (self.bits - 1) - 2)",
        (LAYERS,),
    ),
    M(
        "inner-sees-validation",
        "qmoe_core/training/crossval.py",
        'trained("inner", *split.inner, "loss", None)',
        'trained("inner", train, split.inner[1], "loss", None)',
        (f"{NET}::test_the_epoch_is_chosen_on_clips_that_training_has_not_seen",),
    ),
    M(
        "refit-all-epochs",
        "qmoe_core/training/crossval.py",
        'trained("refit", train, None, "loss", first.epochs)',
        'trained("refit", train, None, "loss", None)',
        (f"{NET}::test_the_epoch_is_chosen_on_clips_that_training_has_not_seen",),
    ),
    M(
        "epochs-not-heeded",
        "qmoe_core/training/fit.py",
        "epochs=limit if epochs is None else epochs",
        "epochs=limit",
        (f"{NET}::test_training_lasts_as_many_epochs_as_it_is_told",),
    ),
    # Evaluation
    M(
        "bootstrap-of-clips",
        "qmoe_core/evaluation/selective.py",
        "np.arange(n) if sources is None else sources, seed=seed",
        "np.arange(n), seed=seed",
        ("tests/evaluation/test_selective.py::test_the_interval_is_that_of_a_plain_bootstrap_of_recordings",),
    ),
    M(
        "bootstrap-without-positives",
        "qmoe_core/evaluation/selective.py",
        "weights = weights[some]",
        "weights = weights + 0.0",
        (f"{NET}::test_a_bootstrap_leaves_out_resamples_without_positives",),
    ),
    M(
        "auroc-of-equals",
        "qmoe_core/evaluation/selective.py",
        "- 0.5 * of_negatives",
        "- 1.0 * of_negatives",
        (f"{NET}::test_a_bootstrap_leaves_out_resamples_without_positives",),
    ),
    M(
        "brier-without-square",
        "qmoe_core/evaluation/calibration.py",
        "((probabilities - truth) ** 2)",
        "(np.abs(probabilities - truth))",
        (CALIBRATION,),
    ),
    M(
        "ece-not-weighted",
        "qmoe_core/evaluation/calibration.py",
        "return (self.gap * self.count).sum(axis=-1) / self.count.sum(axis=-1)",
        "return self.gap.mean(axis=-1)",
        (CALIBRATION,),
    ),
    M(
        "confusion-transposed",
        CLASSIFICATION_PY,
        "(labels * classes + predicted)",
        "(predicted * classes + labels)",
        (CLASSIFICATION,),
    ),
    M(
        "f1-not-weighted",
        CLASSIFICATION_PY,
        "return (class_f1(matrix) * actual).sum(axis=-1) / actual.sum(axis=-1)",
        "return class_f1(matrix).mean(axis=-1)",
        (CLASSIFICATION,),
    ),
    M(
        "kappa-without-chance",
        CLASSIFICATION_PY,
        "chance = habits @ habits.T",
        "chance = 0 * habits @ habits.T",
        (CLASSIFICATION,),
    ),
    # Store
    M("entry-not-flushed", FOLDER_PY, "os.fsync(file.fileno())", "pass", (NET,)),
    M("folder-not-flushed", FOLDER_PY, "            system.flush_folder(destination.parent)\n", "", (NET,)),
    M(
        "file-checksum",
        ENTRY_PY,
        "if hashlib.sha256(data).hexdigest() != record.sha256:",
        "if False:",
        (STORE,),
    ),
    M("header-checksum", ENTRY_PY, "if checksum(header.body) != header.sha256:", "if False:", (STORE,)),
    M(
        "other-version-is-damage",
        ENTRY_PY,
        "            raise OtherVersion(schema)\n        header",
        '            raise Damaged("schema")\n        header',
        (STORE,),
    ),
    M(
        "restore-traversal",
        BACKUP_PY,
        'if any(part in ("", ".", "..")',
        'if any(part in ("", ".")',
        (BACKUP,),
    ),
    M("restore-links", BACKUP_PY, "if kind not in (0, stat.S_IFREG):", "if False:", (BACKUP,)),
    M(
        "restore-checksums",
        BACKUP_PY,
        "or _digest(member) != record.sha256:",
        "and _digest(member) != record.sha256:",
        (BACKUP,),
    ),
    # Live
    M(
        "log-not-flushed",
        SYSTEM_PY,
        "        if flush:\n            os.fsync(descriptor)\n",
        "",
        (f"{NET}::test_a_line_of_the_log_is_on_the_disk",),
    ),
    M(
        "log-lines-of-others-lost",
        LOG_PY,
        "lines = [*kept.foreign, *map",
        "lines = [*map",
        (LOG,),
    ),
    M("log-torn-line", LOG_PY, 'b"" if _ends_a_line(path) else b"\\n"', 'b""', (LOG,)),
    M(
        "smoothing-one-more",
        DETECTIONS_PY,
        "while len(self._recent) > rules.smooth:",
        "while len(self._recent) > rules.smooth + 1:",
        (DETECTIONS,),
    ),
    M(
        "gap-is-judged",
        DETECTIONS_PY,
        "if judged.missing_s > 0.0:",
        "if judged.missing_s > 9.0:",
        (DETECTIONS,),
    ),
    M(
        "sleep-not-noticed",
        "qmoe_core/live/timeline.py",
        "if late > ASLEEP_S or",
        "if late > 100 * ASLEEP_S or",
        (TIMELINE,),
    ),
    M(
        "open-detection-lost",
        "qmoe_core/live/terminal.py",
        "            except _Asked:\n                pass\n            self._tell(pipeline.finish())",
        "            except _Asked:\n                return pipeline\n            self._tell(pipeline.finish())",
        (TERMINAL,),
    ),
    M(
        "repeated-packets",
        "qmoe_core/live/sources.py",
        "if chunk.sequence >= self._next:",
        "if chunk.sequence >= 0:",
        (SOURCES,),
    ),
    M(
        "bundle-not-flushed",
        "qmoe_core/bundles/__init__.py",
        "            path.chmod(0o644)\n            _flush(path)\n",
        "            path.chmod(0o644)\n",
        (f"{NET}::test_bundles_and_exports_are_on_the_disk_before_they_take_their_places",),
    ),
    M(
        "export-not-flushed",
        "qmoe_core/bundles/export/archive.py",
        "os.fsync(file.fileno())",
        "pass",
        (f"{NET}::test_bundles_and_exports_are_on_the_disk_before_they_take_their_places",),
    ),
    M(
        "graph-not-flushed",
        "qmoe_core/bundles/export/graph.py",
        "os.fsync(file.fileno())",
        "pass",
        (f"{NET}::test_bundles_and_exports_are_on_the_disk_before_they_take_their_places",),
    ),
    M(
        "download-not-flushed",
        "qmoe_core/datasets/download.py",
        "os.fsync(file.fileno())",
        "pass",
        ("tests/datasets/test_download.py::test_a_download_is_on_the_disk_before_it_takes_its_place",),
    ),
    M(
        "unpacked-not-flushed",
        "qmoe_core/datasets/download.py",
        "        system.flush_all()",
        "        # system.flush_all()",
        ("tests/datasets/test_download.py::test_a_download_is_on_the_disk_before_it_takes_its_place",),
    ),
    # The dashboard, and what strangers may do
    M(
        "turns-first-come",
        "dashboard/turns.py",
        "key=lambda run: (far(run.address), far(run.session), run.asked)",
        "key=lambda run: run.asked",
        (VISITORS,),
    ),
    M(
        "turns-without-end",
        "dashboard/turns.py",
        "< self.light_s]",
        "< 1e9]",
        (VISITORS,),
    ),
    M(
        "largest-not-first",
        "dashboard/room.py",
        "max(of, key=lambda address: of[address])",
        "min(of, key=lambda address: of[address])",
        (VISITORS,),
    ),
    M(
        "closed-sessions-stay",
        "dashboard/room.py",
        "if now - since > CLOSED_S]",
        "if now - since > 1e9]",
        (VISITORS,),
    ),
    M(
        "woken-for-everything",
        "dashboard/gathered.py",
        "if not self._woken:  # two",
        "if True:  # two",
        (VISITORS,),
    ),
    M(
        "sent-one-by-one",
        "dashboard/gathered.py",
        "AppSession.flush_browser_queue = flush",
        "pass",
        (VISITORS,),
    ),
    M(
        "loop-without-share",
        "dashboard/guard.py",
        "bounds.handling).after(took)",
        "bounds.handling).after(0.0)",
        (VISITORS,),
    ),
    M("costly-messages", "dashboard/guard.py", "if took > bounds.costly_s:", "if False:", (VISITORS,)),
    M("closed-pages-pile-up", "dashboard/room.py", "counted[address] > self.most", "False", (VISITORS,)),
    M("last-session-stays", "dashboard/room.py", "info.session.session_state.clear()", "pass", (VISITORS,)),
    M("messages-do-not-count", "dashboard/room.py", "self._told[session] = size", "pass", (VISITORS,)),
    M(
        "uploads-count-once-announced",
        "dashboard/guard.py",
        "or not room.has(session, more):",
        "or False:",
        (VISITORS,),
    ),
    M(
        "messages-without-pace",
        "dashboard/guard.py",
        "await asyncio.sleep(pace.after(",
        "await asyncio.sleep(0 * pace.after(",
        (VISITORS,),
    ),
    M(
        "folders-for-visitors",
        "dashboard/session/public.py",
        "if LIMITS is not None and spec not in known",
        "if LIMITS is not None and not spec",
        (PUBLIC,),
    ),
    M(
        "visitors-measure",
        "dashboard/session/public.py",
        "if isinstance(request, Bench | Claims):",
        "if isinstance(request, Claims):",
        (PUBLIC,),
    ),
    M(
        "visitors-settings",
        "dashboard/session/public.py",
        '(isinstance(request, Train) and _special(request.config), "single settings are")',
        '(False, "single settings are")',
        (PUBLIC,),
    ),
    M(
        "visitors-jobs",
        "dashboard/session/public.py",
        ">= LIMITS.jobs:",
        "> LIMITS.jobs:",
        (f"{PUBLIC}::test_only_so_many_jobs",),
    ),
    M(
        "visitors-jobs-of-an-address",
        "dashboard/session/public.py",
        "if _active(address()) >= LIMITS.address_jobs:",
        "if False:",
        (f"{PUBLIC}::test_only_so_many_jobs",),
    ),
    M(
        "visitors-stay",
        "dashboard/session/public.py",
        "    shutil.rmtree(root, ignore_errors=True)",
        "    pass",
        (f"{PUBLIC}::test_a_lab_that_was_ended_leaves_nothing_behind",),
    ),
    M(
        "visitors-share-a-store",
        "dashboard/session/public.py",
        'f"{_SERVER}-{uuid.uuid4().hex}"',
        'f"{_SERVER}-{_SERVER}"',
        (f"{PUBLIC}::test_nothing_of_one_visitor_is_there_for_another",),
    ),
    M(
        "job-without-end",
        "dashboard/session/public.py",
        "limit_s=LIMITS.job_s",
        "limit_s=None",
        (f"{PUBLIC}::test_only_so_many_jobs",),
    ),
    M(
        "another-lab-is-swept",
        "dashboard/session/public.py",
        "(name[1] != _SERVER and _serves(folder, name[1]))",
        "False",
        ("tests/test_security.py::test_a_public_lab_asks_for_no_token_and_answers_to_its_names",),
    ),
    M(
        "a-link-is-swept",
        "dashboard/session/public.py",
        "if folder.is_symlink() or (",
        "if (",
        ("tests/test_security.py::test_the_visitors_folder_is_no_link",),
    ),
    M(
        "hidden-tabs-stay",
        "qmoe_core/live/sessions.py",
        "if s.patience == HIDDEN_S or",
        "if",
        ("tests/live/test_sessions.py",),
    ),
    M(
        "pipes-are-waited-for",
        SYSTEM_PY,
        "    if not stat.S_ISREG(found.st_mode):\n        raise OSError(errno.EINVAL",
        "    if False:\n        raise OSError(errno.EINVAL",
        (f"{STORE}::test_what_is_no_file_is_not_waited_for",),
    ),
    M(
        "links-are-entries",
        FOLDER_PY,
        "        if path.is_symlink():\n            raise Damaged",
        "        if False:\n            raise Damaged",
        (f"{STORE}::test_a_link_is_no_entry",),
    ),
    M(
        "heard-sounds-unbounded",
        "dashboard/session/hearing.py",
        'max_entries=64, max_size="256 MB", scope',
        "scope",
        (f"{NET}::test_heard_sounds_are_let_go", f"{NET}::test_every_cache_of_the_dashboard_is_bounded"),
    ),
    M(
        "an-upload-leaks",
        "dashboard/session/hearing.py",
        "    name = decode.display_name(file.name)\n",
        "    name = decode.display_name(file.name)\n    globals().setdefault('LEAK', []).append(bytearray(1 << 20))\n",
        (f"{NET}::test_an_upload_leaves_nothing_behind",),
    ),
    M(
        "stopping-needs-a-reader",
        "dashboard/launch.py",
        "        with suppress(OSError):\n            self._stream.write(text if",
        "        if True:\n            self._stream.write(text if",
        ("tests/pages/test_launch.py",),
    ),
    M(
        "compressed-bundles",
        "qmoe_core/bundles/__init__.py",
        "if info.compress_type != zipfile.ZIP_STORED:",
        "if False:",
        ("tests/bundles/export/test_packed.py", "tests/bundles/test_bundle.py", "tests/test_security.py"),
    ),
    M(
        "any-clean-folds-are-the-predefined-ones",
        "qmoe_core/paper/protocol.py",
        'v["in_common"] == 1.0,',
        'v["leaking_random"] == v["leaking_official"],',
        ("tests/paper/test_claims_turn.py",),
    ),
    M(
        "what-cannot-be-tested-is-kept-quiet",
        "qmoe_core/paper/claims.py",
        '{"holds": HOLDS, "not-testable": NOT_TESTABLE}',
        '{"holds": HOLDS}',
        ("tests/paper/test_claims.py",),
    ),
    M(
        "training-is-not-what-the-bundle-had",
        "qmoe_core/training/loop.py",
        "clip_grad_norm_(model.parameters(), clip_norm)",
        "clip_grad_norm_(model.parameters(), 0.9 * clip_norm)",
        ("tests/bundles/test_shipped.py",),
    ),
    M(
        "a-step-without-its-dropout",
        "dashboard/views/figure_one.py",
        '("router", "dropout"),',
        '("router",),',
        ("tests/pages/test_method.py::test_figure_1_has_the_numbers_and_costs_of_its_sections",),
    ),
)
